"""The quality rules of Gopher for running text.

Source: Rae et al. 2021, arXiv:2112.11446, table A1; thresholds as in datatrove. They were
tuned on English web pages: tables, statutes and clinical notes fail them by design.
"""

from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Document, Row, Text
from domainwright.curate.filters import FILTERS, Drop, Look, Sample

_STOP_WORDS = frozenset("the be to of and that have with".split())


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Gopher:
    """Text that does not look like running text: dropped. Text rows only."""

    least_words: int = 50
    most_words: int = 100_000
    least_word_chars: float = 3.0
    """Mean length of a word, in characters."""
    most_word_chars: float = 10.0
    most_symbols: float = 0.1
    """Signs "#" and "…" per word."""
    most_bullets: float = 0.9
    """Share of lines that begin with a bullet. In [0, 1]."""
    most_ellipses: float = 0.3
    """Share of lines that end with an ellipsis. In [0, 1]."""
    least_alphabetic: float = 0.8
    """Share of words that hold a letter. In [0, 1]."""
    least_stop_words: int = 2
    """Different ones of: the, be, to, of, and, that, have, with."""

    default: ClassVar[bool] = False
    order: ClassVar[int] = 70
    finds: ClassVar[tuple[str, ...]] = ("gopher",)

    def ready(self, sample: Sample) -> Look:
        return self._look

    def _look(self, row: Row) -> Drop | None:
        if not isinstance(row, (Text, Document)):
            return None
        words, lines = row.text.split(), row.text.splitlines() or [""]
        n = max(1, len(words))
        mean = sum(map(len, words)) / n
        symbols = (row.text.count("#") + row.text.count("…") + row.text.count("...")) / n
        bullets = sum(line.lstrip().startswith(("-", "•", "*", "●")) for line in lines) / len(lines)
        ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines)
        alphabetic = sum(any(map(str.isalpha, word)) for word in words) / n
        stops = len(_STOP_WORDS & {word.lower() for word in words})
        for broken, detail in (
            (not self.least_words <= len(words) <= self.most_words, f"{len(words)} words"),
            (
                not self.least_word_chars <= mean <= self.most_word_chars,
                f"words of {mean:.1f} characters",
            ),
            (symbols > self.most_symbols, f"{symbols:.2f} symbols per word"),
            (bullets > self.most_bullets, f"{bullets:.0%} of the lines are bullets"),
            (ellipses > self.most_ellipses, f"{ellipses:.0%} of the lines end in an ellipsis"),
            (alphabetic < self.least_alphabetic, f"{alphabetic:.0%} of the words hold a letter"),
            (stops < self.least_stop_words, f"{stops} of the stop words"),
        ):
            if broken:
                return Drop("gopher", detail)
        return None
