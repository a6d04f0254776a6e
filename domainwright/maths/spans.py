"""Entities as spans of words, the tags that mark them word by word, and how many are right.

    BIO (IOB2)      B-X begins an entity, I-X goes on with it, O is none
    IOB1            I-X begins one as well; B-X only where an equal one touches it
    BIOES, BILOU    also a last word (E-X, L-X) and a single one (S-X, U-X)

One reading serves them all, that of CoNLL's conlleval: an entity also begins where a tag goes on
with what is not there, and ends where the type changes. A span is right where type and both ends
are equal.

    precision = right / given     recall = right / true     F1 = 2 right / (given + true)

Source: Tjong Kim Sang and De Meulder 2003, CoNLL-2003, and its conlleval; seqeval 1.2.2 in its
default mode counts alike.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
_TAG = re.compile(r"([BIMESLU])-(\S.*)")
_FIRST, _LAST = "BSU", "ESLU"


class Span(NamedTuple):
    """The words `start` to `end`, the last not included, are an entity."""

    start: int
    end: int
    kind: str


class Counts(NamedTuple):
    """Spans of one type, or of all."""

    right: int
    given: int
    true: int

    @property
    def precision(self) -> float:
        """0 where nothing was given."""
        return self.right / self.given if self.given else 0.0

    @property
    def recall(self) -> float:
        """0 where nothing is true."""
        return self.right / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """1 where nothing is true and nothing was given."""
        either = self.given + self.true
        return 2 * self.right / either if either else 1.0


def is_tag(tag: object) -> bool:
    """Whether this is a tag of one of the schemes.

    >>> is_tag("O"), is_tag("B-DRUG"), is_tag("NOUN"), is_tag("B-")
    (True, True, False, False)
    """
    if not isinstance(tag, str):
        return False
    found = _TAG.fullmatch(tag)
    # Answers write `TYPE: words`.
    return tag == OUTSIDE or (found is not None and ": " not in found[2])


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence in order, whatever the scheme of its tags.

    >>> spans_of(["I-X", "I-X", "B-X", "O", "S-Y"])
    [Span(start=0, end=2, kind='X'), Span(start=2, end=3, kind='X'), Span(start=4, end=5, kind='Y')]
    """
    found, start, open_kind = list[Span](), 0, ""
    for place, tag in enumerate(tags):
        parts = _TAG.fullmatch(tag)
        mark, kind = (parts[1], parts[2]) if parts else ("", "")
        if open_kind and (kind != open_kind or mark in _FIRST):
            found.append(Span(start, place, open_kind))
            open_kind = ""
        if kind and not open_kind:
            start, open_kind = place, kind
        if kind and mark in _LAST:
            found.append(Span(start, place + 1, kind))
            open_kind = ""
    if open_kind:
        found.append(Span(start, len(tags), open_kind))
    return found


def tags_of(spans: Iterable[Span], words: int) -> list[str]:
    """BIO tags of a sentence of so many words; no two spans overlap.

    >>> tags_of([Span(1, 3, "X")], 4)
    ['O', 'B-X', 'I-X', 'O']
    """
    tags = [OUTSIDE] * words
    for start, end, kind in spans:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


def tag_names(kinds: Iterable[str]) -> tuple[str, ...]:
    """All tags of BIO for these types, O first.

    >>> tag_names(["Y", "X"])
    ('O', 'B-X', 'I-X', 'B-Y', 'I-Y')
    """
    marked = [f"{mark}-{kind}" for kind in sorted(set(kinds)) for mark in "BI"]
    return (OUTSIDE, *marked)


def counts_of(
    given: Iterable[Span], true: Iterable[Span], strange: Iterable[str] = ()
) -> dict[str, Counts]:
    """Type -> how many of its spans are right, were given and are true.

    Args:
        strange: types of what was given besides and is nowhere in the sentence.
    """
    mine, own = set(given), set(true)
    right, wanted = Counter(x.kind for x in mine & own), Counter(x.kind for x in own)
    offered = Counter(x.kind for x in mine) + Counter(strange)
    kinds = sorted({*wanted, *offered})
    return {kind: Counts(right[kind], offered[kind], wanted[kind]) for kind in kinds}


def summed(counts: Iterable[Sequence[int]]) -> Counts:
    """Counts added up: their F1 is the micro-F1."""
    columns = list(zip(*counts, strict=True)) or [(0,)] * 3
    return Counts(*map(sum, columns))
