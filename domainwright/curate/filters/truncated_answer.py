"""Drop answers that end in the middle of a sentence.

Whether an answer without a final mark is cut depends on the file: titles and lists have
none. So the habit is learnt, for answers of one sentence and for those of several: where nearly
all of them end in a mark, one without is cut; elsewhere only a plain sign of a cut counts: a
last word that needs another ("of", "which") or is only the beginning of one, a comma, or a bracket
that stays open.
"""

import bisect
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Chat, Rated, Row
from domainwright.curate._fields import learnt, parts
from domainwright.curate._glance import Glancing
from domainwright.curate._letters import WORD
from domainwright.curate.filters import FILTERS, Drop, Look, Sample

_ENDS = frozenset(".!?:;…。！？।])”\"'’*`}>%$|–—")
_DANGLING = frozenset(
    "a an the of to in for with by from at on and or but nor as if that which who whose whom where"
    " when while because is are was were be been has have had its their his her our your my this"
    " these those such than into onto upon between among about under over not no may might must"
    " shall should will would can could cannot each every any some both either neither".split()
)
_LIST = re.compile(r"^\s*(?:[-*•–]|\d+[.)]|[a-z][.)])\s")
# "…each year.2" is a note, and a link has no full stop behind it.
_NOTE = re.compile(r"[.!?]\s?\d{1,3}(?:,\s?\d{1,3})*\s*$|(?:https?://|www\.)\S+\s*$")
# Words copied out of a document begin in lower case and hold no whole sentence.
_PHRASE = re.compile(r"\s*[^\W\dA-Z_](?:(?![.!?]\s).)*")
_CODE = re.compile(r"```|^\s*(?:def|import|return|SELECT|function|public|class)\b|[{};=]\s*$", re.M)
_BETWEEN = re.compile(r"[.!?][\"”)]?\s+[\"“(]?[A-Z]")
_LAST_WORD = re.compile(r"(?<![^\s(])[a-z]+$")
_LEAST_JUDGED = 50
_LEAST_KNOWN, _SEEN_CHARS = 3_000, 20_000
_LEAST_WORDS = 6
_TITLE_WORDS = 10


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedAnswer:
    """Answers cut off inside a sentence: dropped."""

    rare: float = 0.15
    """Up to this share of answers of one sentence without a final mark, its lack is a cut."""
    rare_of_several: float = 0.25
    """The same of answers of several sentences, of which clean data leave 1 or 2 % open."""

    default: ClassVar[bool] = True
    order: ClassVar[int] = 60
    finds: ClassVar[tuple[str, ...]] = ("truncated_answer",)

    def ready(self, sample: Sample) -> Look:
        seen = dict[bool, list[bool]]({False: [], True: []})
        for row in sample.rows:
            if _prose(row):
                seen[_several(row)].append(_open(row))
        careful = {
            several: len(judged) >= _LEAST_JUDGED
            and sum(judged) <= (self.rare_of_several if several else self.rare) * len(judged)
            for several, judged in seen.items()
        }

        words = _Words(text for row in sample.rows for _, text in parts(row))

        def look(row: Row) -> Drop | None:
            if not _open(row) or not _prose(row):
                return None
            text = learnt(row)[0]
            if careful[_several(row)] or dangling(text) or words.cut(text):
                return Drop("truncated_answer", f"it ends with {text.split()[-1][-30:]!r}")
            return None

        return Glancing(look=look, clear=lambda seen: seen.none_of(Chat, Rated))


class _Words:
    """The words of the data, to know the beginning of one from a whole one."""

    def __init__(self, texts: Iterable[str]) -> None:
        seen = Counter(word for text in texts for word in WORD.findall(text[:_SEEN_CHARS].lower()))
        # What stands there once may be what a cut has left.
        self._known = {word for word, count in seen.items() if count > 1}
        self._sorted = sorted(self._known) if len(self._known) >= _LEAST_KNOWN else []

    def cut(self, text: str) -> bool:
        """Whether the last word is none of the data's, and some of those begin with it."""
        last = _LAST_WORD.search(text)
        if last is None or last[0] in self._known:
            return False
        next_word = bisect.bisect(self._sorted, last[0])
        return next_word < len(self._sorted) and self._sorted[next_word].startswith(last[0])


def dangling(text: str) -> bool:
    """True when the last word asks for another one.

    >>> dangling("Take two tablets with a glass of")
    True
    >>> dangling("Take two tablets with water")
    False
    """
    words = text.split()
    last = words[-1].lower() if words else ""
    return last in _DANGLING or last.endswith((",", "(", "-")) or text.count("(") > text.count(")")


def _prose(row: Row) -> bool:
    """Answers of a few words, lists and code end as they like."""
    if not isinstance(row, (Chat, Rated)):
        return False
    text = learnt(row)[0].rstrip()
    lines = [line for line in text.split("\n") if line.strip()]
    if len(text.split()) < _LEAST_WORDS or _LIST.match(lines[-1]) or _CODE.search(text):
        return False
    if _NOTE.search(text) or _PHRASE.fullmatch(text) or text.count(";") > 1:
        return False
    # The last of several lines: a list without bullets, or the name of who wrote it.
    titled = _title(lines[-1]) and not dangling(lines[-1])
    return len(lines) == 1 or (_ended(lines[-2]) and not titled)


def _title(line: str) -> bool:
    """A short line in capitals: a heading or a name, which has no full stop."""
    long = [word for word in line.split() if len(word) > 3]
    return len(line.split()) <= _TITLE_WORDS and all(word[0].isupper() for word in long)


def _several(row: Row) -> bool:
    """Whether the answer has more than one sentence."""
    return _BETWEEN.search(learnt(row)[0]) is not None


def _open(row: Row) -> bool:
    return not _ended(learnt(row)[0])


def _ended(text: str) -> bool:
    return text.rstrip()[-1:] in _ENDS
