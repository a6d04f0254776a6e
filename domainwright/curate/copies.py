"""Which rows are copies of an earlier row? The first of equals stays, whatever the order of work.

    exact_duplicate         the same, sign for sign
    conflicting_duplicate   the same question, word for word, judged otherwise
    near_duplicate          every part is nearly the same, and judged alike

MinHash proposes pairs (`_sketch`), the words decide. A part of a row (question, answer) is
nearly the same when

    its words are equal, or
    it has 12 words or more, Jaccard similarity of runs of 3 words is at least 0.55, and
    no number was exchanged for another (5 mg is not 50 mg), nor words only moved, or
    it is shorter and one ends with the other: "Question: What is gout?"
"""

import ctypes
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domainwright.core.records import (
    Chat,
    Choice,
    Document,
    Labelled,
    Preference,
    Rated,
    Row,
    Tagged,
)
from domainwright.curate._fields import parts
from domainwright.curate._shingles import folded
from domainwright.curate._sketch import Sketch, candidates, row_parts
from domainwright.curate.content import answer, judgement, question, question_key
from domainwright.curate.native import library, long
from domainwright.maths.words import words

NEAR = 0.55
_RUN_WORDS = 3
_THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")
_SHORT_WORDS = 12
_SHORT_SHARE = 0.5
_LABEL_WORDS = 3
# The estimate has a standard deviation of at most 0.04. Two and a half of them below, six in a
# thousand pairs at the limit are lost, and none above 0.65; four below, most of the time went into
# comparing rows that share a sentence or two.
_LEAST_AGREEMENT = NEAR - 0.1

Keys = NDArray[np.uint64]
Rows = NDArray[np.int64]
_BLOCK = 100_000


@dataclass(frozen=True, slots=True)
class Copy:
    """A later row and the earlier one that it repeats."""

    row: int
    of: int
    """Numbers of rows, from 0."""
    reason: str
    detail: str

    def told(self, original: Row) -> tuple[str, str]:
        """(reason, what was found, with the place of the earlier row)."""
        place = f"{original.id!r} ({original.file}, line {original.line})"
        return self.reason, f"{self.detail}: {place}"


_EXACT, _CONFLICT, _NEAR = 1, 2, 3
_TOLD = {
    _EXACT: ("exact_duplicate", "the same row"),
    _CONFLICT: ("conflicting_duplicate", "asks the same and says something else"),
    _NEAR: ("near_duplicate", "similarity"),
}


class Copies(Mapping[int, Copy]):
    """Row number -> the copy it is: 13 bytes a row, in a file where one is given."""

    def __init__(self, rows: int, spill: Path | None = None) -> None:
        # All zeros at first, and a file of them is made of nothing.
        fields = [("of", np.int64), ("why", np.uint8), ("share", np.float32)]
        table: NDArray[Any] = (
            np.memmap(spill, fields, "w+", shape=(rows,))
            if spill is not None and rows
            else np.zeros(rows, dtype=fields)
        )
        self._of, self._why, self._share = (table[name] for name, _ in fields)

    def add(self, later: Rows | int, first: Rows | int, why: int, share: float = 1.0) -> None:
        self._of[later], self._why[later], self._share[later] = first, why, share

    def has(self, row_T: Rows | slice) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self._why[row_T] != 0
        return found

    def __contains__(self, row: object) -> bool:
        return isinstance(row, int) and bool(self._why[row])

    def __getitem__(self, row: int) -> Copy:
        why = int(self._why[row])
        if not why:
            raise KeyError(row)
        reason, detail = _TOLD[why]
        if why == _NEAR:
            detail += f" {self._share[row]:.2f}"
        return Copy(row, int(self._of[row]), reason, detail)

    def __iter__(self) -> Iterator[int]:
        yield from np.flatnonzero(self._why).tolist()

    def __len__(self) -> int:
        return int(np.count_nonzero(self._why))


def keys_of(row: Row) -> tuple[bytes, bytes, bytes]:
    """(exact, question, judgement) as 16 bytes each; 16 zeros where a row asks nothing."""
    # Two long answers to one question may both be right; two labels may not.
    open_end = isinstance(row, Chat) and len(row.answer.split()) > _LABEL_WORDS
    asked = "" if open_end else question_key(row)
    if not asked:
        return _digest("\x1f".join(_whole(row))), bytes(16), bytes(16)
    return (
        _digest("\x1f".join(_whole(row))),
        _digest(asked),
        _digest(judgement(row)),
    )


def key_table(rows: Sequence[Row]) -> Keys:
    """`keys_of` every row as six numbers, shape (T, 6)."""
    keys = b"".join(b"".join(keys_of(row)) for row in rows)
    return np.frombuffer(keys, dtype=np.uint64).reshape(len(rows), 6)


def copies(
    key_T6: Keys, sketch: Sketch, row_at: Callable[[int], Row], spill: Path | None = None
) -> Copies:
    """Row number -> the copy it is. An original is never a copy itself.

    Args:
        key_T6: `key_table` of all rows.
        row_at: gives the row of a number, for the pairs that need a closer look.
        spill: a file to hold the answer; None: memory.
    """
    found = Copies(len(key_T6), spill)
    for first, later in _same(key_T6[:, :2]):
        found.add(later, first, _EXACT)
    for first, later in _same(key_T6[:, 2:4]):
        differ = (key_T6[first, 4:] != key_T6[later, 4:]).any(axis=1)
        differ &= key_T6[later, 2:4].any(axis=1) & ~found.has(later)
        found.add(later[differ], first[differ], _CONFLICT)
    pair_Q2 = candidates(sketch, _LEAST_AGREEMENT)
    # Sorted by the later row: by the time a row is judged, it is known whether it stays.
    for begin in range(0, len(pair_Q2), _BLOCK):
        for i, j in pair_Q2[begin : begin + _BLOCK].tolist():
            if i in found or j in found:
                continue
            share = _compared(row_at(i), row_at(j))
            if share is not None:
                found.add(j, i, _NEAR, share)
    return found


def _same(key_T2: Keys) -> Iterator[tuple[Rows, Rows]]:
    """(first rows, later rows) with equal keys, a part of the rows at a time."""
    for row_T in row_parts(key_T2[:, 0]):
        part_T2 = key_T2[row_T]
        order = np.lexsort((part_T2[:, 1], part_T2[:, 0]))  # stable: rows of one key keep rising
        part_T2 = part_T2[order]
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = (part_T2[1:] != part_T2[:-1]).any(axis=1)
        first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        yield row_T[order[first[~begins]]], row_T[order[~begins]]


def _compared(original: Row, later: Row) -> float | None:
    """The least similarity of the parts, or None where the later row is no copy."""
    if type(original) is not type(later):
        return None
    least = 1.0
    for mine, other in zip(_sides(original), _sides(later), strict=True):
        share = similarity(mine, other)
        if share is None:
            return None
        least = min(least, share)
    # Nearly the same question with another answer is a lesson: what made the difference?
    judged = isinstance(later, (Choice, Labelled, Rated, Tagged))
    if judged and judgement(original) != judgement(later):
        return None
    if (
        isinstance(original, Preference)
        and isinstance(later, Preference)
        and _exchanged(original, later)
    ):
        return None
    return least


def similarity(mine: str, other: str) -> float | None:
    """How alike two parts are, at least `NEAR`; None where they are not nearly the same.

    >>> similarity("Give 5 mg of it at night, and again 5 mg in the early morning hours.",
    ...            "Give 5 mg of it at night, and again 50 mg in the early morning hours.") is None
    True
    >>> similarity("What is gout?", "Question: what is gout?")
    0.75
    """
    native, mine, other = library(), folded(mine), folded(other)
    if native is None or not (mine.isascii() and other.isascii()):
        return _similarity(mine, other)
    left, right = mine.encode(), other.encode()
    share: float = native.dw_similarity(
        left, long(len(left)), right, long(len(right)),
        long(_RUN_WORDS), long(_SHORT_WORDS), ctypes.c_double(_SHORT_SHARE), ctypes.c_double(NEAR),
    )  # fmt: skip
    return None if share < 0 else share


def _similarity(mine: str, other: str) -> float | None:
    """The same in Python: where nothing is compiled, and for letters beyond ASCII."""
    left, right = _words(mine), _words(other)
    if left == right:
        return 1.0
    if min(len(left), len(right)) < _SHORT_WORDS:
        brief, full = sorted((left, right), key=len)
        # Words put before it ask the same; words behind it ("... in Spain") do not.
        share = len(brief) / len(full)
        only_before = bool(brief) and full[-len(brief) :] == brief
        return share if only_before and share >= _SHORT_SHARE else None
    a, b = _runs(mine), _runs(other)
    shared = len(a & b)
    share = shared / (len(a) + len(b) - shared)
    if share < NEAR:
        return None
    before, after = dict(Counter(left)), dict(Counter(right))
    # The same words in another order: who sits to the left of whom.
    moved = before == after
    exchanged = _more_numbers(before, after) and _more_numbers(after, before)
    return None if moved or exchanged else share


def _more_numbers(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether a number stands more often in `one`."""
    return any(n > other.get(word, 0) for word, n in one.items() if word[0].isdigit())


def _sides(row: Row) -> list[str]:
    """The parts that must all be alike. Choices and replies in fixed order."""
    match row:
        case Choice():
            return [row.question, row.context, " ".join(sorted(row.choices))]
        case Preference():
            return [question(row), *sorted((row.chosen, row.rejected))]
        case Document() | Labelled() | Tagged():
            return [row.text]
    return [question(row), answer(row)]


def _whole(row: Row) -> tuple[str, ...]:
    """Everything a row teaches, to the last space."""
    own = (type(row).__name__, *(f"{part}:{text}" for part, text in parts(row)))
    match row:
        case Choice():
            return (*own, str(row.answer))
        case Labelled():
            return (*own, row.label)
        case Tagged():
            return (*own, *row.tags)
        case Rated():
            return (*own, str(row.wanted))
    return own


def _exchanged(original: Preference, later: Preference) -> bool:
    """True when the reply preferred there is, more or less, the one refused here."""
    crossed = similarity(original.chosen, later.rejected)
    straight = similarity(original.chosen, later.chosen)
    return (crossed or 0.0) > (straight or 0.0)


# A row has several pairs, one after the other.
@functools.lru_cache(512)
def _words(text: str) -> list[str]:
    # 130,000 is 130000, however the copy writes it.
    return words(_THOUSANDS.sub("", text))


@functools.lru_cache(512)
def _runs(text: str) -> set[tuple[str, ...]]:
    found = _words(text)
    return set(zip(*(found[n:] for n in range(_RUN_WORDS)), strict=False))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
