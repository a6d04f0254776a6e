"""Which rows might be copies? One-permutation MinHash, so a row costs one pass over its words.

    bin(h) = top bits of h,   entry(bin) = least hash that fell into it
    P(entries are equal) = J, as with many permutations (Li, Owen, Zhang 2012, NIPS 25)

An empty bin takes the entry of the nearest filled one to its right, turned by the distance
(Shrivastava, Li 2014, UAI 30). Bands of entries make the candidates:

    P(pair becomes a candidate) = 1 - (1 - J^r)^b,  0.98 at J = 0.55 for b = 40 and r = 4

Dimension key:
    T  texts      K  bins      S  runs of words      Q  pairs
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from domainwright.core.machine import cores
from domainwright.curate._shingles import encoded, fold_table, shingled
from domainwright.curate.native import address, library, long

BINS = 160
BAND = 4
BANDS = BINS // BAND
RUN_WORDS = 3
_EMPTY = np.uint32(0xFFFFFFFF)
MOST_PAIRS = 16
"""A bucket of n rows is n (n - 1) / 2 pairs: beyond this, each row is compared with these
many before it and with the first."""

_PART_TEXTS = 512
"""Work is shared among the cores in parts of this many texts: native code lets other threads run.
"""

_BANDS_AT_ONCE = 8
_PAIRS_HELD = 2**22
"""Pairs that may stand more than once are looked through when there are so many."""
_PART_ROWS = 2**20
"""Rows whose keys are in memory at a time: about 50 MB for a band."""

Signatures = NDArray[np.uint32]
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is known of the texts: enough to find pairs and to estimate how alike they are."""

    signature_TK: Signatures
    """A text without words has only the largest number."""
    key_BT: NDArray[np.uint64]
    """`band_keys` of the signatures."""


def sketched(texts: Sequence[str], words_each: int = RUN_WORDS) -> Sketch:
    signature_TK = signatures(texts, words_each)
    return Sketch(signature_TK, band_keys(signature_TK))


def signatures(texts: Sequence[str], words_each: int = RUN_WORDS) -> Signatures:
    """Shape (T, K). A text without words has only the largest number."""
    native = library()
    if native is None:
        return _plain_signatures(texts, words_each)
    out_TK = np.empty((len(texts), BINS), dtype=np.uint32)

    def part(begin: int) -> None:
        some = texts[begin : begin + _PART_TEXTS]
        data = [text.encode("utf-8", "replace") for text in some]
        late = _native_signatures(native, data, words_each, out_TK[begin:], fold_table())
        if late:
            late_RK = np.empty((len(late), BINS), dtype=np.uint32)
            _native_signatures(native, [encoded(some[t]) for t in late], words_each, late_RK, None)
            out_TK[[begin + t for t in late]] = late_RK

    _on_cores(part, range(0, len(texts), _PART_TEXTS))
    return out_TK


def _native_signatures(
    native: ctypes.CDLL,
    data: Sequence[bytes],
    words_each: int,
    out_TK: Signatures,
    folds: tuple[NDArray[np.int32], bytes] | None,
) -> list[int]:
    """Fill `out_TK`; the numbers of the texts that have to be folded in Python.

    Args:
        folds: `fold_table`; None: the texts are folded.
    """
    bounds, unread_T = np.zeros(len(data) + 1, dtype=np.int64), np.zeros(len(data), dtype=np.uint8)
    np.cumsum([len(piece) for piece in data], out=bounds[1:])
    bound_F2, folded = folds or (np.empty((0, 2), dtype=np.int32), b"")
    native.dw_sketch(
        b"".join(data), address(bounds), long(len(data)), long(words_each), long(BINS),
        address(out_TK), address(bound_F2), folded, long(len(bound_F2)), address(unread_T),
    )  # fmt: skip
    late: list[int] = np.flatnonzero(unread_T).tolist()
    return late


def _on_cores(work: Callable[[int], Made], items: Sequence[int]) -> list[Made]:
    """`work` of every item, in order."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(work, items))


def _plain_signatures(texts: Sequence[str], words_each: int) -> Signatures:
    hash_S, bounds = shingled(texts, words_each)
    T = len(texts)
    out_TK = np.full((T, BINS), _EMPTY, dtype=np.uint32)
    if len(hash_S):
        row_S = np.repeat(np.arange(T, dtype=np.uint64), np.diff(bounds))
        bin_S = ((hash_S >> np.uint64(32)) * np.uint64(BINS)) >> np.uint64(32)
        value_S = hash_S & np.uint64(0x7FFFFFFF)
        # One sort puts the least hash of every bin first: row, bin and value in one number
        # where they fit, which is where rows x bins stay below 2^33.
        key_S = np.sort((row_S * np.uint64(BINS) + bin_S) << np.uint64(31) | value_S)
        place_S = key_S >> np.uint64(31)
        first = np.ones(len(key_S), dtype=bool)
        first[1:] = place_S[1:] != place_S[:-1]
        out_TK.reshape(-1)[place_S[first].astype(np.int64)] = (
            key_S[first] & np.uint64(0x7FFFFFFF)
        ).astype(np.uint32)
    return _densified(out_TK)


def _densified(out_TK: Signatures) -> Signatures:
    empty_TK = out_TK == _EMPTY
    rows = np.flatnonzero(empty_TK.any(axis=1) & ~empty_TK.all(axis=1))
    if not len(rows):
        return out_TK
    empty_RK = np.concatenate([empty_TK[rows], empty_TK[rows]], axis=1)
    place_RK = np.where(empty_RK, 2 * BINS, np.arange(2 * BINS))
    nearest_RK = np.minimum.accumulate(place_RK[:, ::-1], axis=1)[:, ::-1][:, :BINS]
    taken_RK = np.take_along_axis(out_TK[rows], nearest_RK % BINS, axis=1)
    # The distance is mixed in: two bins that borrow one entry must not agree by that alone.
    far_RK = (nearest_RK - np.arange(BINS)).astype(np.uint32) * np.uint32(0x9E3779B1)
    out_TK[rows] = taken_RK + far_RK
    return out_TK


def band_keys(signature_TK: Signatures) -> NDArray[np.uint64]:
    """One number per band and text: equal where the band is, 0 without words. Shape (B, T)."""
    native, T = library(), len(signature_TK)
    if native is not None:
        key_BT = np.empty((BANDS, T), dtype=np.uint64)

        def part(begin: int) -> None:
            native.dw_band_keys(
                address(signature_TK[begin:]), long(min(_PART_TEXTS, T - begin)), long(BINS),
                long(BAND), address(key_BT[:, begin:]), long(T),
            )  # fmt: skip

        _on_cores(part, range(0, T, _PART_TEXTS))
        return key_BT
    key_BT = np.zeros((BANDS, len(signature_TK)), dtype=np.uint64)
    for entry in range(BAND):
        key_BT = (key_BT ^ signature_TK[:, entry::BAND].T) * np.uint64(0x9E3779B97F4A7C15)
        key_BT ^= key_BT >> np.uint64(29)
    return np.where(signature_TK[:, 0] == _EMPTY, np.uint64(0), key_BT | np.uint64(1))


def candidates(sketch: Sketch, least: float = 0.0, most: int = MOST_PAIRS) -> NDArray[np.int64]:
    """Pairs (i, j), i < j, that agree in a band. Shape (Q, 2), sorted by j, then i.

    Args:
        least: pairs of a smaller `agreement` are left out.
        most: rows before it with which a row of a bucket is paired, beside the first.
    """
    T, native = sketch.key_BT.shape[1], library()
    equal = int(np.searchsorted(np.arange(BINS + 1) / BINS, least))

    # One band at a time, and of many rows a part of them: the keys may lie in a file and be more
    # than fits in memory.
    def band(number: int) -> NDArray[np.int64]:
        key_T, found = sketch.key_BT[number], [np.empty(0, dtype=np.int64)]
        for row in row_parts(key_T):
            key = key_T[row]
            if native is not None:
                found.append(_native_pairs(native, key, row, sketch.signature_TK, equal, most))
                continue
            late_and_early = _plain_pairs(key[key != 0], row[key != 0], T, most)
            if least:
                share_Q = agreement(sketch.signature_TK, _pairs(late_and_early, T))
                late_and_early = late_and_early[share_Q >= least]
            found.append(late_and_early)
        return np.concatenate(found)

    key_Q, found = np.empty(0, dtype=np.int64), list[NDArray[np.int64]]()
    for first in range(0, BANDS, _BANDS_AT_ONCE):
        found += _on_cores(band, range(first, min(BANDS, first + _BANDS_AT_ONCE)))
        # A close pair stands in most bands.
        if sum(map(len, found)) > _PAIRS_HELD or first + _BANDS_AT_ONCE >= BANDS:
            key_Q, found = _distinct(np.concatenate([key_Q, *found])), []
    return _pairs(key_Q, T)


def _distinct(value_Q: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every value once, rising. All are 0 or more; overwritten."""
    native = library()
    if native is None:
        # np.unique hashes, which takes four times as long.
        value_Q = np.sort(value_Q)
        return value_Q[np.diff(value_Q, prepend=-1) != 0]
    other_Q = np.empty_like(value_Q)
    return value_Q[: native.dw_distinct(address(value_Q), address(other_Q), long(len(value_Q)))]


def _pairs(late_and_early: NDArray[np.int64], T: int) -> NDArray[np.int64]:
    """(i, j) of j * T + i."""
    return np.stack([late_and_early % max(T, 1), late_and_early // max(T, 1)], axis=1)


def row_parts(key_T: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """Numbers of rows, rising: every row in one part, and equal keys in the same."""
    T = len(key_T)
    count = max(1, -(-T // _PART_ROWS))
    if count == 1:
        yield np.arange(T)
        return
    for part in range(count):
        yield np.concatenate(
            [
                begin + np.flatnonzero(key_T[begin : begin + _PART_ROWS] % count == part)
                for begin in range(0, T, _PART_ROWS)
            ]
        )


def _plain_pairs(
    key: NDArray[np.uint64], row: NDArray[np.int64], T: int, most: int
) -> NDArray[np.int64]:
    """j * T + i for the pairs of one band."""
    order = np.argsort(key, kind="stable")
    same = key[order[1:]] == key[order[:-1]]
    if not same.any():
        return np.empty(0, dtype=np.int64)
    group = np.concatenate([[0], np.cumsum(~same)])
    begin = np.flatnonzero(np.concatenate([[True], ~same]))
    size = np.diff(np.append(begin, len(order)))
    return np.concatenate(list(_pairs_within(row[order], group, begin, size, T, most)))


def _pairs_within(
    row: NDArray[np.int64],
    group: NDArray[np.int64],
    begin: NDArray[np.int64],
    size: NDArray[np.int64],
    T: int,
    most: int,
) -> list[NDArray[np.int64]]:
    """j * T + i for the pairs of every group, rows of a group in rising order."""
    pieces = []
    offset = np.arange(len(row)) - begin[group]
    # The n-th row of a group with each of the rows before it, one distance at a time.
    for back in range(1, min(most, int(size.max())) + 1):
        late = np.flatnonzero(offset >= back)
        if len(late):
            pieces.append(row[late] * T + row[late - back])
    far = np.flatnonzero(offset > most)
    if len(far):
        pieces.append(row[far] * T + row[begin[group[far]]])
    return pieces


def _native_pairs(
    native: ctypes.CDLL,
    key: NDArray[np.uint64],
    row: NDArray[np.int64],
    signature_TK: Signatures,
    equal: int,
    most: int,
) -> NDArray[np.int64]:
    """What `_plain_pairs` makes of one band, of pairs that agree in `equal` entries or more."""
    pair_Q = np.empty(max(1024, len(row)), dtype=np.int64)
    while True:
        count: int = native.dw_band_pairs(
            address(key), address(row), long(len(row)), long(len(signature_TK)), long(most),
            address(signature_TK), long(BINS), long(equal), address(pair_Q), long(len(pair_Q)),
        )  # fmt: skip
        if count <= len(pair_Q):
            return pair_Q[:count]
        pair_Q = np.empty(count, dtype=np.int64)


def agreement(signature_TK: Signatures, pair_Q2: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimated Jaccard similarity per pair. Its standard deviation is at most 0.04."""
    out_Q = np.empty(len(pair_Q2))
    for begin in range(0, len(pair_Q2), 50_000):
        part = pair_Q2[begin : begin + 50_000]
        equal = signature_TK[part[:, 0]] == signature_TK[part[:, 1]]
        out_Q[begin : begin + 50_000] = equal.mean(axis=1)
    return out_Q
