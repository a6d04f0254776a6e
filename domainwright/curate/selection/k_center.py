"""Rows so that none is far from a chosen one: greedy k-center.

    add argmax_i min_{j in S} |z_i - z_j|

The largest distance left is at most twice the smallest that k rows can reach. Outliers are
chosen early: clean the data first. The first row is the one nearest to the mean.

Source: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; for training
sets Sener & Savarese 2018, arXiv:1708.00489. Time O(k N D), memory O(N D).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from domainwright.curate.selection import SELECTIONS, Chosen, Seen, best


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class KCenter:
    """The row farthest from all chosen ones, again and again."""

    needs: ClassVar[tuple[str, ...]] = ("vectors",)

    def choose(self, seen: Seen, count: int) -> Chosen:
        z_ND = seen.vectors_ND
        assert z_ND is not None, "k_center needs vectors"
        square_N = np.einsum("nd,nd->n", z_ND, z_ND)
        chosen = [best(2 * z_ND @ z_ND.mean(0) - square_N)]
        far_N = np.full(len(z_ND), np.inf, dtype=np.float32)
        while len(chosen) < count:
            last = chosen[-1]
            np.minimum(far_N, square_N - 2 * z_ND @ z_ND[last] + square_N[last], out=far_N)
            far_N[last] = -np.inf
            chosen.append(best(far_N))
        return Chosen(chosen)
