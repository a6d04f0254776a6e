"""Runs of capitalised words: where a name can stand."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from domainwright.curate._name_lists import lists, spelt

_UP = "[A-ZÀ-ÖØ-ÞŁŚŠŻŽČĆĐİ]"
_TAIL = (
    r"(?:['’]{up})?[^\W\d_]*[^\W\d_A-Z](?![^\W_])(?:-[^\W\d_]+|['’](?![sdmt]\b)[^\W\d_]+)*".replace(
        "{up}", _UP
    )
)
CAPITALISED = _UP + _TAIL
"""A pattern of one word: Lopez, O'Brien, McDonald, Mei-ling; without the 's of a genitive."""
_SMALL = "(?:de|la|del|da|dos|das|di|du|le|van|von|der|den|ter|bin|ibn|al|el|y|do|upon)"
# The set of capitals comes first, and the look back behind it: so the search skips to capitals.
_RUN = re.compile(
    rf"{_UP}(?<![\w@#/&’'.-].)(?:\. ?(?:{_UP}\. ?){{0,2}}{CAPITALISED}|{_TAIL})"
    rf"(?: (?:{_SMALL} ){{0,2}}(?:{CAPITALISED}|(?!I\b){_UP}\b\.?))*"
)
_SEEN = 60


@dataclass(frozen=True, slots=True)
class Run:
    """Capitalised words in a row, with initials and small words such as "de la" among them."""

    start: int
    words: tuple[str, ...]
    plain: tuple[str, ...]
    """The words as the lists spell them."""

    @property
    def end(self) -> int:
        return self.start + sum(map(len, self.words)) + len(self.words) - 1

    def part(self, begin: int, end: int) -> "Run":
        """Some of the words."""
        start = self.start + sum(map(len, self.words[:begin])) + begin
        return Run(start, self.words[begin:end], self.plain[begin:end])


def runs(text: str, behind: frozenset[str] | None = None) -> list[Run]:
    """The runs of a text in order, without single words that are never a name.

    Args:
        behind: of single words, only those behind one of these words or before a comma.

    >>> [" ".join(run.words) for run in runs("The late J. R. Smith met Ana de la Cruz. He left.")]
    ['J. R. Smith', 'Ana de la Cruz']
    >>> [" ".join(run.words) for run in runs("Smith saw Mr. Cruz.", frozenset(["mr"]))]
    ['Cruz']
    """
    mute = lists().mute
    return [
        _run(found)
        for found in _RUN.finditer(text)
        if found[0] not in mute
        and (
            behind is None
            or " " in found[0]
            or "." in found[0]
            or last_word(text[max(0, found.start() - 24) : found.start()]) in behind
            or text.startswith(", ", found.end())
        )
    ]


def _run(found: re.Match[str]) -> Run:
    words = tuple(found[0].split(" "))
    return Run(found.start(), words, words if found[0].isascii() else tuple(map(spelt, words)))


def before(text: str, start: int) -> str:
    """What stands before a place, as far as cues look back.

    >>> before("seen by Ann", 8)
    'seen by '
    """
    return text[max(0, start - _SEEN) : start]


def last_word(text: str) -> str:
    """The last word in lower case without marks around it; "" where there is none.

    >>> last_word("Sincerely,\\n"), last_word(" ")
    ('sincerely', '')
    """
    words = text.rsplit(None, 1)
    return words[-1].strip("*.,:;!([\"“'’").lower() if words else ""


def without_never(run: Run, spared: frozenset[str] = frozenset()) -> Run:
    """The run without words at its beginning that are never part of a name, save `spared`."""
    never, begin = lists().never, 0
    while begin < len(run.plain) and run.plain[begin] in never and run.plain[begin] not in spared:
        begin += 1
    return run.part(begin, len(run.words)) if begin else run


def is_free(spans: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    """Whether a place touches none of the spans, which are in order and do not overlap.

    >>> is_free([(0, 3), (7, 9)], 3, 7), is_free([(0, 3), (7, 9)], 3, 8)
    (True, False)
    """
    at = bisect_right(spans, (start, start))
    behind = at < len(spans) and spans[at][0] < end
    return not behind and (at == 0 or spans[at - 1][1] <= start)


Spans = Iterator[tuple[int, int]]
