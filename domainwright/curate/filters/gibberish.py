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
from domainwright.curate._letters import WORD, Letters
from domainwright.curate.filters import FILTERS, Drop, Look, Sample

# A digit or a sign among letters, as no word and no number has them; a colour is neither.
_MIXED = re.compile(r"(?!#[0-9A-Fa-f]{6}\W?$)(?=.*[^\W\d_])[^|/]*[\d#$%&*@][^|/]*$")
_MARK_FIRST = re.compile(r"[,.?!;:][^\W\d_]{2}")
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

        def look(row: Row) -> Drop | None:
            for text in learnt(row):
                detail = self._loop(text) or self._strange(text, letters)
                if detail:
                    return Drop("gibberish", detail)
            return None

        return look

    def _loop(self, text: str) -> str:
        found = text.split()
        if len(found) < self.loop_words:
            return ""
        triples = list(zip(found, found[1:], found[2:], strict=False))
        repeated = 1 - len(set(triples)) / len(triples)
        return f"{repeated:.0%} of it repeats itself" if repeated > self.most_repeated else ""

    def _strange(self, text: str, letters: Letters) -> str:
        tokens = text.split()
        if len(tokens) < _LEAST_WORDS:
            return ""
        mixed = sum(_MIXED.match(token) is not None for token in tokens)
        found = [word for word in WORD.findall(text.lower()) if len(word) > 2]
        kinds = [letters.kind(word) for word in found]
        noise, backwards = kinds.count("noise"), kinds.count("backwards")
        # One rare name, however often it stands there, is not a text spelt backwards.
        different = len(
            {word for word, kind in zip(found, kinds, strict=True) if kind == "backwards"}
        )
        # A mark before a word was behind it once: ",yrros" and "?yhw".
        before = len({token for token in tokens if _MARK_FIRST.match(token)})
        backwards, different = backwards + before, different + before
        if mixed > self.most_noise * len(tokens):
            return f"{mixed} of {len(tokens)} words mix letters and signs"
        if len(kinds) >= _LEAST_WORDS and noise > self.most_noise * len(kinds):
            return f"{noise} of {len(kinds)} words are like none in the data"
        if (
            len(kinds) >= _LEAST_WORDS
            and different > 1
            and backwards > self.most_backwards * len(kinds)
        ):
            return f"{backwards} of {len(kinds)} words are spelt backwards"
        return ""
