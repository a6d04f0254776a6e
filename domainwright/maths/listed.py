"""The entities of a sentence written down, one `TYPE: words` a line, and read back.

    DRUG: warfarin
    DOSE: 5 mg

in the order of the sentence; `none` where there are none. Which words a line means: the first
place with these words that no earlier line has taken, behind the line before where there is one,
else from the left. Where that is another place than the entity's, its line names it: `mg #2` is the
second `mg` of the sentence. Spaces count nowhere; case, quotes and a full stop only where the
words are not found otherwise.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from domainwright.maths.spans import Span

NONE = "none"
OTHER = "(other)"
"""Types that were not asked for."""
_NUMBERED = re.compile(r"(.*\S)\s+#([1-9]\d{0,5})")
_BULLET = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+")
_AROUND = " \t\"'`*“”‘’.,;"


@dataclass(slots=True)
class Listed:
    """What a reply lists."""

    spans: list[Span] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    """Types of lines whose words are not in the sentence or are taken, and OTHER."""
    parsed: bool = False
    """False: no line lists an entity, and none says that there is none."""


class _Places:
    """The words of one sentence, and which of them are taken."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = ["".join(word.split()) for word in words]
        self.folded = [word.casefold() for word in self.words]
        self.taken: set[int] = set()
        self.behind = 0

    def all(self, text: str, folded: bool = False) -> list[tuple[int, int]]:
        """Every (start, end) with the words of `text`."""
        wanted = "".join(text.split())
        if folded:
            wanted = wanted.casefold()
        return list(_all(wanted, self.folded if folded else self.words)) if wanted else []

    def plain(self, found: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
        """Which of these places a line without a number means."""
        free = [place for place in found if self.free(place)]
        later = [place for place in free if place[0] >= self.behind]
        return next(iter(later or free), None)

    def free(self, place: tuple[int, int]) -> bool:
        return self.taken.isdisjoint(range(*place))

    def take(self, place: tuple[int, int]) -> None:
        self.taken.update(range(*place))
        self.behind = place[1]


def listed(words: Sequence[str], spans: Sequence[Span]) -> str:
    """The lines of a sentence's entities, which are in order and do not overlap.

    >>> listed(["5", "mg", "or", "6", "mg"], [Span(4, 5, "UNIT")])
    'UNIT: mg #2'
    """
    places, lines = _Places(words), []
    for start, end, kind in spans:
        text = " ".join(words[start:end])
        found = places.all(text)
        number = ""
        if places.plain(found) != (start, end) or _NUMBERED.fullmatch(text):
            number = f" #{1 + found.index((start, end))}"
        places.take((start, end))
        lines.append(f"{kind}: {text}{number}")
    return "\n".join(lines) or NONE


def read_listed(reply: str, words: Sequence[str], kinds: Sequence[str]) -> Listed:
    """The spans that a reply lists; a line that names no entity is talk.

    A line of another type is given and wrong where its words are in the sentence, but a reply with
    only such lines lists nothing.

    Args:
        kinds: the types that were asked for.
    """
    places, found = _Places(words), Listed()
    longest = sorted(kinds, key=len, reverse=True)
    for line in map(str.strip, reply.split("\n")):
        if line.strip(_AROUND).casefold() == NONE:
            found.parsed = True
            continue
        typed = _typed(line, longest) or _typed(_BULLET.sub("", line, count=1), longest)
        kind, text = typed or ("", line.partition(":")[2].strip())
        place = _found(text, places) if text else None
        if place:
            places.take(place)
        if typed and text:
            found.parsed = True
        if place and typed:
            found.spans.append(Span(*place, kind))
        elif place or (typed and text):
            found.strange.append(kind or OTHER)
    return found if found.parsed else Listed()


def _typed(line: str, longest: Sequence[str]) -> tuple[str, str] | None:
    """(type, words) of a line that begins with a type that was asked for."""
    for fold in (str, str.casefold):
        for kind in longest:
            if fold(line).startswith(fold(kind) + ":"):
                return kind, line[len(kind) + 1 :].strip()
    return None


def _found(text: str, places: _Places) -> tuple[int, int] | None:
    """The words that a line means."""
    numbered = _NUMBERED.fullmatch(text)
    if numbered:
        every = places.all(numbered[1])
        number = int(numbered[2])
        if number <= len(every):
            place = every[number - 1]
            return place if places.free(place) else None
    for folded in (False, True):
        for variant in (text, text.strip(_AROUND)):
            place_or_none = places.plain(places.all(variant, folded))
            if place_or_none:
                return place_or_none
    return None


def _all(wanted: str, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Every run of words that is `wanted` when written without spaces."""
    for start in range(len(words)):
        at, end = 0, start
        while end < len(words) and at < len(wanted) and wanted.startswith(words[end], at):
            at += len(words[end])
            end += 1
        if at == len(wanted):
            yield start, end
