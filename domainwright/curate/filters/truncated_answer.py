"""Drop answers that end in the middle of a sentence.

Whether an answer without a final mark is cut depends on the file: titles and lists have
none. So the habit is learnt: where nearly all answers of the data end in a mark, one
without is cut; elsewhere only a plain sign of a cut counts: a last word that needs
another ("of", "which"), a comma, or a bracket that stays open.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Chat, Rated, Row
from domainwright.curate._fields import learnt
from domainwright.curate.filters import FILTERS, Drop, Look, Sample

_ENDED = re.compile(r"[.!?:;…。！？।\]\)”\"'’*`}>%$|–—]\s*$")
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
_LEAST_WORDS = 6
_TITLE_WORDS = 10


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedAnswer:
    """Answers cut off inside a sentence: dropped."""

    rare: float = 0.1
    """Below this share of answers without a final mark, its lack is a cut. In [0, 1]."""

    default: ClassVar[bool] = True
    order: ClassVar[int] = 60
    finds: ClassVar[tuple[str, ...]] = ("truncated_answer",)

    def ready(self, sample: Sample) -> Look:
        judged = [_open(row) for row in sample.rows if _prose(row)]
        careful = len(judged) >= 50 and sum(judged) <= self.rare * len(judged)

        def look(row: Row) -> Drop | None:
            if not _prose(row) or not _open(row):
                return None
            last = learnt(row)[0].split()[-1]
            if careful or dangling(learnt(row)[0]):
                return Drop("truncated_answer", f"it ends with {last[-30:]!r}")
            return None

        return look


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
    return len(lines) == 1 or (bool(_ENDED.search(lines[-2])) and not _title(lines[-1]))


def _title(line: str) -> bool:
    """A short line in capitals: a heading or a name, which has no full stop."""
    long = [word for word in line.split() if len(word) > 3]
    return len(line.split()) <= _TITLE_WORDS and all(word[0].isupper() for word in long)


def _open(row: Row) -> bool:
    return not _ENDED.search(learnt(row)[0])
