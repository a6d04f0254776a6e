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
_MARKS = ".,;:!?()[]\"'“”‘’"
_LEAST_WORDS = 5
_MOST_KNOWN = 500_000


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
        tokens = _Tokens(Letters(text for row in sample.rows for _, text in parts(row)))

        def look(row: Row) -> Drop | None:
            for text in learnt(row):
                found = text.split()
                detail = self._loop(found) or self._strange(found, tokens)
                if detail:
                    return Drop("gibberish", detail)
            return None

        return look

    def _loop(self, tokens: list[str]) -> str:
        triples = len(tokens) - 2
        if len(tokens) < self.loop_words:
            return ""
        # Every other word ends another triple: most texts are done before theirs are made.
        if len(set(tokens)) - 2 >= (1 - self.most_repeated) * triples:
            return ""
        repeated = 1 - len(set(zip(tokens, tokens[1:], tokens[2:], strict=False))) / triples
        return f"{repeated:.0%} of it repeats itself" if repeated > self.most_repeated else ""

    def _strange(self, tokens: list[str], seen: "_Tokens") -> str:
        odd = seen.odd_of(tokens) if len(tokens) >= _LEAST_WORDS else []
        if not odd:
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
        words = seen.words_in(tokens)
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
    noise: int
    """Words in it that fit nothing."""
    backwards: tuple[str, ...]


class _Tokens:
    """What has been found out about tokens: most stand in many rows, and nothing is odd."""

    def __init__(self, letters: Letters) -> None:
        self._letters = letters
        self._odd, self._plain = dict[str, _Odd](), dict[str, int]()
        """Plain ones with the number of their words."""

    def odd_of(self, tokens: list[str]) -> list[_Odd]:
        """The odd ones among the tokens, each as often as it stands there."""
        if len(self._plain) + len(self._odd) > _MOST_KNOWN:
            self._plain.clear()
            self._odd.clear()
        strange = set(tokens).difference(self._plain)
        if not strange:
            return []
        for token in strange.difference(self._odd):
            found = self._look(token)
            if isinstance(found, _Odd):
                self._odd[token] = found
            else:
                self._plain[token] = found
                strange.discard(token)
        return [self._odd[token] for token in tokens if token in strange] if strange else []

    def words_in(self, tokens: list[str]) -> int:
        """Words of three letters or more in tokens that have been looked at."""
        return sum([self._plain[t] if t in self._plain else self._odd[t].words for t in tokens])

    def _look(self, token: str) -> _Odd | int:
        inside = token.strip(_MARKS)
        if inside.isalpha():
            words, mixed = [inside.lower()], False
        else:
            words, mixed = WORD.findall(token.lower()), _MIXED.match(token) is not None
        words = [word for word in words if len(word) > 2]
        kinds = [self._letters.kind(word) for word in words]
        mark_first = _MARK_FIRST.match(token) is not None
        if not mixed and not mark_first and all(kind == "plain" for kind in kinds):
            return len(words)
        backwards = tuple(w for w, kind in zip(words, kinds, strict=True) if kind == "backwards")
        return _Odd(token, mixed, mark_first, len(words), kinds.count("noise"), backwards)
