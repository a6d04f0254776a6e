"""Which texts say nearly the same? Jaccard similarity of their 5-grams of words.

MinHash proposes pairs, the true similarity decides. The bands are shorter than
FineWeb's (28 of 4 entries instead of 14 of 8): a filter may miss a copy, a split
that must not leak may not. A pair at similarity 0.8 is missed once in millions.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from domainwright.maths.minhash import candidate_pairs, jaccard, shingles, signatures_of, words

EXACT_BELOW_WORDS = 12
"""For rows: question and answer together below this length are copies only when equal."""
_PERMUTATIONS = 112
_BANDS = 28
_SHINGLE_WORDS = 5
# The standard deviation of an estimate from 112 entries is at most 0.048; five of
# them below the threshold, a pair is not worth the exact count.
_ESTIMATE_SLACK = 0.24


def clusters(
    texts: Sequence[str], threshold: float = 0.8, *, exact_below_words: int = 0
) -> list[int]:
    """A cluster number per text; texts of one number are copies, perhaps through others.

    Args:
        threshold: smallest Jaccard similarity of a copy, in (0, 1].
        exact_below_words: shorter texts are copies only when all their words are equal.
            Questions made from one template differ in a single name.

    Returns:
        Numbers from 0 in the order in which the clusters first appear.
    """
    whole = [" ".join(words(text)) for text in texts]
    distinct = list(dict.fromkeys(whole))
    position = {text: n for n, text in enumerate(distinct)}
    groups = Groups(len(distinct))
    for i, j, _ in pairs(distinct, threshold, exact_below_words=exact_below_words):
        groups.join(i, j)
    numbers: dict[object, int] = {}
    found = []
    for n, text in enumerate(whole):
        # Nothing is not a copy of nothing: texts without words stay alone.
        root: object = groups.root(position[text]) if text else ("empty", n)
        found.append(numbers.setdefault(root, len(numbers)))
    return found


def pairs(
    texts: Sequence[str], threshold: float = 0.8, *, exact_below_words: int = 0
) -> Iterator[tuple[int, int, float]]:
    """(i, j, similarity) of distinct texts at or above the threshold, i < j."""
    long = [n for n, text in enumerate(texts) if len(words(text)) >= exact_below_words]
    hash_S, bounds = shingles([texts[n] for n in long], _SHINGLE_WORDS)
    signature_TP = signatures_of(hash_S, bounds, permutations=_PERMUTATIONS)
    near = candidate_pairs(signature_TP, bands=_BANDS)
    for part in np.array_split(near, max(1, len(near) // 100_000)):
        agree = (signature_TP[part[:, 0]] == signature_TP[part[:, 1]]).mean(axis=1)
        for i, j in part[agree >= threshold - _ESTIMATE_SLACK].tolist():
            own, other = (hash_S[bounds[n] : bounds[n + 1]] for n in (i, j))
            similarity = jaccard(own, other)
            if similarity >= threshold:
                yield long[i], long[j], similarity


class Groups:
    """Union-find: which of n things belong together."""

    def __init__(self, size: int) -> None:
        self.parent = list(range(size))

    def root(self, item: int) -> int:
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def join(self, a: int, b: int) -> None:
        # The smaller number stays root, so roots do not depend on the order of joins.
        low, high = sorted((self.root(a), self.root(b)))
        self.parent[high] = low
