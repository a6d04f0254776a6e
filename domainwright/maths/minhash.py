"""MinHash: texts that share most of their word n-grams get signatures that agree in most places.

    P(signature entries are equal) = J,   J(A, B) = |A ∩ B| / |A ∪ B|
    P(pair becomes a candidate) = 1 - (1 - J^r)^b   with b bands of r entries

Source: Broder 1997, "On the resemblance and containment of documents". The setting of
FineWeb (Penedo et al. 2024, arXiv:2406.17557): 5-grams of words, 112 entries, 14 bands of 8.

Dimension key:
    T  texts      P  permutations      S  shingles of all texts, one after the other
"""

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from domainwright.core.seeds import generator

Hashes = NDArray[np.uint64]

# Scripts without spaces: every sign is a word, or a sentence would be one word.
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")
_CHUNK_SHINGLES = 2_000_000
_EMPTY = np.iinfo(np.uint64).max


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and accents. Digits stay: 5 mg is not 50 mg.

    >>> words("Give 5 mg of Naïve-Mab®.")
    ['give', '5', 'mg', 'of', 'naive', 'mab']
    """
    text = text.lower()
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text)
        text = "".join(itertools.filterfalse(unicodedata.combining, parts))
    return _WORD.findall(text)


def shingles(texts: Sequence[str], words_each: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Hashes of every n-gram of words, text after text.

    Args:
        words_each: words per shingle. A shorter text is one shingle: all its words.

    Returns:
        hash_S with repetitions, and T + 1 bounds: text t owns hash_S[bound[t]:bound[t + 1]].
        A text without words owns none. Equal shingles have equal hashes on every machine.
    """
    known: dict[str, int] = {}
    codes, lengths = list[int](), list[int]()
    for text in texts:
        found = words(text)
        lengths.append(len(found))
        codes.extend(known[word] if word in known else _code(word, known) for word in found)
    code_W = np.array(codes, dtype=np.uint64)
    length_T = np.array(lengths, dtype=np.int64)
    start_T = np.concatenate([[0], np.cumsum(length_T)[:-1]]).astype(np.int64)
    count_T = np.where(length_T == 0, 0, np.maximum(length_T - words_each + 1, 1))
    bounds = np.concatenate([[0], np.cumsum(count_T)]).astype(np.int64)
    first_S = np.repeat(start_T - bounds[:-1], count_T) + np.arange(bounds[-1])
    end_S = np.repeat(start_T + length_T, count_T)
    hash_S = np.zeros(bounds[-1], dtype=np.uint64)
    for offset in range(words_each):
        at_S = first_S + offset
        inside_S = at_S < end_S
        word_S = code_W[np.minimum(at_S, max(len(code_W) - 1, 0))]
        hash_S = np.where(inside_S, _mixed(hash_S * np.uint64(0x9E3779B97F4A7C15) + word_S), hash_S)
    return hash_S, bounds


def signatures(
    texts: Sequence[str], *, permutations: int = 112, words_each: int = 5
) -> NDArray[np.uint64]:
    """MinHash signatures, shape (T, P). A text without words has only the largest number."""
    hash_S, bounds = shingles(texts, words_each)
    return signatures_of(hash_S, bounds, permutations=permutations)


def signatures_of(
    hash_S: Hashes, bounds: NDArray[np.int64], *, permutations: int = 112
) -> NDArray[np.uint64]:
    """Signatures from shingles that are already hashed."""
    draw = generator(0, "minhash", permutations)
    odd_P = draw.integers(0, 2**63, permutations, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    shift_P = draw.integers(0, 2**63, permutations, dtype=np.uint64)
    out_TP = np.full((len(bounds) - 1, permutations), _EMPTY, dtype=np.uint64)
    filled_T = np.flatnonzero(np.diff(bounds))
    start = 0
    while start < len(filled_T):
        # Whole texts up to a fixed number of shingles, so memory does not grow with the corpus.
        limit = bounds[filled_T[start]] + _CHUNK_SHINGLES
        stop = max(int(np.searchsorted(bounds[filled_T + 1], limit, side="right")), start + 1)
        rows = filled_T[start:stop]
        part_S = hash_S[bounds[rows[0]] : bounds[rows[-1] + 1]]
        begins = bounds[rows] - bounds[rows[0]]
        for p in range(permutations):
            mixed_S = part_S * odd_P[p] + shift_P[p]
            # The low bits of a product depend on low bits only; fold the high ones in.
            mixed_S ^= mixed_S >> np.uint64(29)
            out_TP[rows, p] = np.minimum.reduceat(mixed_S, begins)
        start = stop
    return out_TP


def candidate_pairs(signature_TP: NDArray[np.uint64], *, bands: int = 14) -> NDArray[np.int64]:
    """Pairs (i, j), i < j, whose signatures agree in a whole band. Shape (pairs, 2), sorted.

    Args:
        bands: must divide the number of permutations; 14 bands of 112 have 8 entries each.
    """
    T, P = signature_TP.shape
    keys = [np.empty(0, dtype=np.int64)]
    filled_T = np.flatnonzero((signature_TP != _EMPTY).any(axis=1)) if P else np.empty(0, int)
    for band_TR in np.split(signature_TP[filled_T], bands, axis=1):
        _, bucket_T = np.unique(band_TR, axis=0, return_inverse=True)
        order_T = np.argsort(bucket_T.ravel(), kind="stable")
        ends = np.flatnonzero(np.diff(bucket_T.ravel()[order_T])) + 1
        for members in np.split(filled_T[order_T], ends):
            if len(members) > 1:
                i, j = np.triu_indices(len(members), k=1)
                keys.append(members[i] * T + members[j])
    key_Q = np.unique(np.concatenate(keys))
    return np.stack([key_Q // max(T, 1), key_Q % max(T, 1)], axis=1)


def jaccard(a: Hashes, b: Hashes) -> float:
    """|A ∩ B| / |A ∪ B| of two sets of shingles; 0 for two empty ones."""
    left, right = set(a.tolist()), set(b.tolist())
    either = len(left | right)
    return len(left & right) / either if either else 0.0


def _code(word: str, known: dict[str, int]) -> int:
    # Not hash(): Python salts it anew in every process.
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    known[word] = int.from_bytes(digest, "big")
    return known[word]


def _mixed(value: Hashes) -> Hashes:
    """The finaliser of splitmix64: every input bit changes every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
