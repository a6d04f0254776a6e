"""Drop rows that say nothing: loops, random signs, words spelt backwards.

loops       most runs of three words have stood in the text before
noise       most words mix letters with digits and signs, or fit no word of the data
backwards   many words would fit when read from their end
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Row
from domainwright.curate._fields import learnt, parts
from domainwright.curate._glance import Glance, Glancing, Mask
from domainwright.curate._letters import WORD, Letters
from domainwright.curate._remembered import Remembered
from domainwright.curate.filters import FILTERS, Drop, Look, Sample

# A digit or a sign among letters, as no word and no number has them; a colour is neither.
_MIXED = re.compile(r"(?!#[0-9A-Fa-f]{6}\W?$)(?=.*[^\W\d_])[^|/]*[\d#$%&*@][^|/]*$")
_MARK_FIRST = re.compile(r"[,.?!;:][^\W\d_]{2}")
_MARKS = ".,;:!?()[]\"'“”‘’"
_LEAST_WORDS = 5


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Gibberish:
    """Text without meaning: dropped."""

    most_repeated: float = 0.7
    """Share of word triples that stood before, above which a text is a loop. In [0, 1]."""
    loop_words: int = 20
    """Shorter texts are never called loops."""
    most_noise: float = 0.5
    """Share of words that fit nothing. In [0, 1]."""
    most_backwards: float = 0.2
    """Share of words of three letters or more that fit only backwards. In [0, 1]."""

    default: ClassVar[bool] = True
    order: ClassVar[int] = 50
    finds: ClassVar[tuple[str, ...]] = ("gibberish",)

    def ready(self, sample: Sample) -> Look:
        letters = Letters(text for row in sample.rows for _, text in parts(row))
        plain = list[str]()

        def find(token: str) -> _Odd | int:
            found = _look(letters, token)
            if not isinstance(found, _Odd):
                plain.append(token)
            return found

        known = Remembered(find)

        def look(row: Row) -> Drop | None:
            for text in learnt(row):
                tokens = text.split()
                detail = self._loop(tokens) or self._strange([known[token] for token in tokens])
                if detail:
                    return Drop("gibberish", detail)
            return None

        return Glancing(look=look, clear=self._clear, plain=plain)

    def _clear(self, seen: Glance) -> Mask:
        least = min(self.most_noise, self.most_backwards)
        plain = seen.mostly_plain(self.most_noise, least)
        return plain & seen.without_loops(self.loop_words, 1 - self.most_repeated)

    def _loop(self, tokens: list[str]) -> str:
        triples = len(tokens) - 2
        if len(tokens) < self.loop_words:
            return ""
        # Every other word ends another triple: most texts are done before theirs are made.
        if len(set(tokens)) - 2 >= (1 - self.most_repeated) * triples:
            return ""
        repeated = 1 - len(set(zip(tokens, tokens[1:], tokens[2:], strict=False))) / triples
        return f"{repeated:.0%} of it repeats itself" if repeated > self.most_repeated else ""

    def _strange(self, tokens: "list[_Odd | int]") -> str:
        odd = [token for token in tokens if isinstance(token, _Odd)]
        if not odd or len(tokens) < _LEAST_WORDS:
            return ""
        mixed = sum(token.mixed for token in odd)
        if mixed > self.most_noise * len(tokens):
            return f"{mixed} of {len(tokens)} words mix letters and signs"
        noise = sum(token.noise for token in odd)
        before = len({token.text for token in odd if token.mark_first})
        backwards = sum(len(token.backwards) for token in odd) + before
        # One rare name, however often it stands there, is not a text spelt backwards.
        different = len({word for token in odd for word in token.backwards}) + before
        if not noise and different < 2:
            return ""
        words = sum(token.words if isinstance(token, _Odd) else token for token in tokens)
        if words < _LEAST_WORDS:
            return ""
        if noise > self.most_noise * words:
            return f"{noise} of {words} words are like none in the data"
        if different > 1 and backwards > self.most_backwards * words:
            return f"{backwards} of {words} words are spelt backwards"
        return ""


@dataclass(frozen=True, slots=True)
class _Odd:
    """What is odd about a token, which is what stands between two spaces."""

    text: str
    mixed: bool
    mark_first: bool
    """A mark before a word was behind it once: ",yrros" and "?yhw"."""
    words: int
    """Of three letters or more."""
    noise: int
    """Words in it that fit nothing."""
    backwards: tuple[str, ...]


def _look(letters: Letters, token: str) -> _Odd | int:
    """What is odd about a token, or how many words a plain one has."""
    inside = token.strip(_MARKS)
    if inside.isalpha():
        words, mixed = [inside.lower()], False
    else:
        words, mixed = WORD.findall(token.lower()), _MIXED.match(token) is not None
    words = [word for word in words if len(word) > 2]
    kinds = [letters.kind(word) for word in words]
    mark_first = _MARK_FIRST.match(token) is not None
    if not mixed and not mark_first and all(kind == "plain" for kind in kinds):
        return len(words)
    backwards = tuple(w for w, kind in zip(words, kinds, strict=True) if kind == "backwards")
    return _Odd(token, mixed, mark_first, len(words), kinds.count("noise"), backwards)
