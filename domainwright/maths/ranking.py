"""How good an order is, where it is known which items were wanted.

    DCG@k = Σ_r [item at rank r is wanted] / log₂(r + 1)       r = 1 … k
    nDCG@k = DCG@k / the highest DCG@k that any order has

Source: Järvelin and Kekäläinen 2002, with gains of 0 and 1.
"""

from collections.abc import Collection, Sequence
from math import log2


def ndcg(ranked: Sequence[int], wanted: Collection[int], depth: int = 10) -> float:
    """nDCG@depth of an order, in [0, 1].

    >>> ndcg([7, 3, 5], {3})
    0.6309297535714575
    """
    if not wanted:
        return 0.0
    gains = [1 / log2(rank + 1) for rank in range(1, depth + 1)]
    found = sum(g for g, item in zip(gains, ranked, strict=False) if item in wanted)
    return found / sum(gains[: len(wanted)])
