"""Drop text that repeats lines, paragraphs or phrases.

    share of a gram's characters = (repeats x its length) / length of the text

Source: the repetition rules of Gopher (Rae et al. 2021, arXiv:2112.11446, table A1), with
the thresholds given there. Forms and statutes repeat by nature.
"""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Document, Row, Text
from domainwright.curate.filters import FILTERS, Drop, Look, Sample


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """Text that says the same again and again: dropped. Text rows only."""

    most_lines: float = 0.3
    """Share of lines, and of paragraphs, that stood before. In [0, 1]."""
    most_line_chars: float = 0.2
    """The same, in characters."""
    top_grams: tuple[float, ...] = (0.20, 0.18, 0.16)
    """Share of characters in the commonest run of 2, 3 and 4 words."""
    repeated_grams: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Share of characters in runs of 5 to 10 words that stood before."""

    default: ClassVar[bool] = False
    order: ClassVar[int] = 72
    finds: ClassVar[tuple[str, ...]] = ("repetition",)

    def ready(self, sample: Sample) -> Look:
        return self._look

    def _look(self, row: Row) -> Drop | None:
        if not isinstance(row, (Text, Document)):
            return None
        for noun, sign in (("lines", "\n"), ("paragraphs", "\n\n")):
            pieces = [piece.strip() for piece in row.text.split(sign) if piece.strip()]
            count, chars = _again(pieces)
            if count > self.most_lines or chars > self.most_line_chars:
                return Drop("repetition", f"{max(count, chars):.0%} of the {noun} stood before")
        words = row.text.split()
        whole = max(1, sum(map(len, words)))
        for n, most in enumerate(self.top_grams, 2):
            gram, times = _commonest(words, n)
            share = times * len(gram) / whole
            if times > 1 and share > most:
                return Drop("repetition", f"one run of {n} words makes {share:.0%} of it")
        for n, most in enumerate(self.repeated_grams, 5):
            share = _covered(words, n) / whole
            if share > most:
                return Drop("repetition", f"repeated runs of {n} words make {share:.0%} of it")
        return None


def _again(pieces: list[str]) -> tuple[float, float]:
    """(share of pieces, share of their characters) that stood before."""
    seen, count, chars = set[str](), 0, 0
    for piece in pieces:
        if piece in seen:
            count, chars = count + 1, chars + len(piece)
        seen.add(piece)
    return count / max(1, len(pieces)), chars / max(1, sum(map(len, pieces)))


def _commonest(words: list[str], n: int) -> tuple[str, int]:
    grams = Counter("".join(words[i : i + n]) for i in range(len(words) - n + 1))
    return grams.most_common(1)[0] if grams else ("", 0)


def _covered(words: list[str], n: int) -> int:
    """Characters in runs of n words that stood before, no character twice."""
    seen, chars, at = set[tuple[str, ...]](), 0, 0
    while at <= len(words) - n:
        gram = tuple(words[at : at + n])
        if gram in seen:
            chars += sum(map(len, gram))
            at += n
        else:
            seen.add(gram)
            at += 1
    return chars
