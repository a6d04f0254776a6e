"""Hashes of runs of words straight from bytes: no Python object per word.

The hash of a word is the mixed polynomial sum of its bytes modulo 2^64, the hash of a run the
same of its words. Prefix sums give every word of a chunk at once.

Dimension key:
    B  bytes      W  words      S  runs of words      T  texts
"""

import functools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from domainwright.curate._remembered import Remembered

Hashes = NDArray[np.uint64]

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MOST_LETTERS = 64
"""A line of a million letters is one word; beyond this many only their number counts."""
_LETTER = np.zeros(256, dtype=bool)
for _sign in (*b"abcdefghijklmnopqrstuvwxyz0123456789", *range(0x80, 0x100)):
    _LETTER[_sign] = True
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[65:91] += 32
_SIGNS = {*range(0x3040, 0x3100), *range(0x3400, 0xA000)}
"""Scripts without spaces: every sign is a word."""


class _Folding(dict[int, str | None]):
    """What a character becomes, found once for each."""

    def __missing__(self, point: int) -> str | None:
        char = chr(point)
        kind = unicodedata.category(char)[0]
        folded: str | None = char
        if unicodedata.combining(char):
            folded = None
        elif point in _SIGNS:
            folded = f" {char} "
        elif point >= 0x80 and kind not in "LNM":
            folded = " "
        self[point] = folded
        return folded


def _fold(run: str) -> str:
    return unicodedata.normalize("NFKD", run.lower()).translate(_FOLDING)


_FOLDING = _Folding()
# Quotes and dashes come again and again, a text in Chinese is one run that never does.
_RUNS = Remembered(_fold, longest=4)
_FOLDED = 0x3000 - 0x80
"""Characters that are folded one by one: alphabets, marks and signs, not the signs of China."""
_BEYOND = re.compile("[^\x00-\x7f]+")


def folded(text: str) -> str:
    """Accents and signs beyond ASCII made comparable; ASCII text as it is.

    >>> folded("naïve “dose”").split()
    ['naive', 'dose']
    """
    if text.isascii():
        return text
    return _BEYOND.sub(lambda run: _RUNS[run[0]], text)


@functools.cache
def fold_table() -> tuple[NDArray[np.int32], bytes]:
    """What characters become one by one: ((F, 2) first and last byte, the bytes), from U+0080 on.

    (-1, -1) stands for one that depends on its neighbours.
    """
    bounds, data = np.full((_FOLDED, 2), -1, dtype=np.int32), bytearray()
    for place in range(_FOLDED):
        char = chr(0x80 + place)
        # A capital sigma has two small letters.
        if char != "\u03a3":
            begin = len(data)
            data += _fold(char).encode()
            bounds[place] = begin, len(data)
    return bounds, bytes(data)


def encoded(text: str) -> bytes:
    """The bytes in which words are looked for."""
    return folded(text).encode("utf-8", "replace")


def runs(word_W: Hashes, words_each: int) -> Hashes:
    """Hashes of the runs of one text, as `shingled` makes them; none of a shorter text."""
    count = len(word_W) - words_each + 1
    if count < 1:
        return word_W[:0]
    hash_S = word_W[:count]
    for offset in range(1, words_each):
        hash_S = hash_S * _BASE + word_W[offset : offset + count]
    return mixed(hash_S)


def shingled(texts: Sequence[str], words_each: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Hashes of every run of words, text after text.

    Args:
        words_each: words per run. A shorter text is one run: all its words.

    Returns:
        hash_S with repetitions, and T + 1 bounds: text t owns hash_S[bound[t]:bound[t + 1]].
        A text without words owns none.
    """
    word_W, count_T = word_hashes(texts)
    T = len(texts)
    start_T = np.zeros(T, dtype=np.int64)
    start_T[1:] = np.cumsum(count_T)[:-1] if T else 0
    run_T = np.where(count_T == 0, 0, np.maximum(count_T - words_each + 1, 1))
    bounds = np.concatenate([[0], np.cumsum(run_T)]).astype(np.int64)
    if not bounds[-1]:
        return np.empty(0, dtype=np.uint64), bounds
    first_S = np.repeat(start_T - bounds[:-1], run_T) + np.arange(bounds[-1])
    hash_S = word_W[first_S]
    short = bool((count_T < words_each).any())
    end_S = np.repeat(start_T + count_T, run_T) if short else None
    for offset in range(1, words_each):
        at_S = first_S + offset
        more_S = hash_S * _BASE + word_W[np.minimum(at_S, len(word_W) - 1)]
        hash_S = more_S if end_S is None else np.where(at_S < end_S, more_S, hash_S)
    return mixed(hash_S), bounds


def word_hashes(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """(hash of every word of all texts in order, words per text). Case and accents are one."""
    data = [encoded(text) for text in texts]
    # A space between two texts: no word runs from one into the next.
    raw_B = np.frombuffer(b" " + b" ".join(data) + b" ", dtype=np.uint8)
    byte_B = _LOWER[raw_B]
    inside_B = _LETTER[byte_B]
    edge = np.flatnonzero(inside_B[1:] != inside_B[:-1]) + 1
    begin_W, end_W = edge[0::2], edge[1::2]
    length_W = end_W - begin_W
    hash_W = np.zeros(len(begin_W), dtype=np.uint64)
    # Words are short: one step per letter over all words that have it beats a pass per byte.
    left = np.arange(len(begin_W))
    for letter in range(min(_MOST_LETTERS, int(length_W.max(initial=0)))):
        left = left[length_W[left] > letter]
        hash_W[left] = hash_W[left] * _BASE + (byte_B[begin_W[left] + letter] + np.uint64(1))
    hash_W += length_W.astype(np.uint64)
    limit_T = np.cumsum([len(piece) + 1 for piece in data]) + 1
    upto_T = np.searchsorted(begin_W, limit_T, side="left")
    return mixed(hash_W), np.diff(upto_T, prepend=0).astype(np.int64)


def mixed(value: Hashes) -> Hashes:
    """The finaliser of splitmix64: every input bit changes every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
