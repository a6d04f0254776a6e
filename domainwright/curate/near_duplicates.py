"""Which texts say nearly the same? Jaccard similarity of their 5-grams of words.

MinHash proposes pairs (`_sketch`), the true similarity decides. A filter may miss a copy, a split
that must not leak may not: all pairs of a bucket are compared, and one at similarity 0.8 is missed
once in a thousand millions.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from domainwright.curate._shingles import shingled
from domainwright.curate._sketch import candidates, sketched
from domainwright.maths.words import words

EXACT_BELOW_WORDS = 12
"""For rows: question and answer together below this length are copies only when equal."""
_SHINGLE_WORDS = 5
# The standard deviation of an estimate is at most 0.04; five of them below the threshold, a pair
# is not worth the exact count.
_ESTIMATE_SLACK = 0.2


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
    ours = [texts[n] for n in long]
    sketch = sketched(ours, _SHINGLE_WORDS)
    near = candidates(sketch, max(0.0, threshold - _ESTIMATE_SLACK), most=len(ours))
    hash_S, bounds = shingled(ours, _SHINGLE_WORDS)
    for i, j in near.tolist():
        own, other = (hash_S[bounds[n] : bounds[n + 1]] for n in (i, j))
        similarity = _jaccard(own, other)
        if similarity >= threshold:
            yield long[i], long[j], similarity


def _jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """|A ∩ B| / |A ∪ B|; 0 for two empty ones."""
    left, right = set(a.tolist()), set(b.tolist())
    either = len(left | right)
    return len(left & right) / either if either else 0.0


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
