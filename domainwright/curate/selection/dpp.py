"""Rows that differ from each other: greedy MAP of a determinantal point process.

    add argmax_i det L_{S + i},   L = Z Zᵀ

det L_{S + i} / det L_S is the squared length of z_i without its part in the span of S: an
incremental Cholesky factorisation of L, whose columns are Z times an orthonormal basis of that
span. The basis is kept instead of the factor, so k vectors are held and not N k numbers. L has
rank D at most; when the chosen rows span all others, the choice begins anew among the rest.

Source: Chen, Zhang & Zhou 2018, arXiv:1709.05135, algorithm 1. Time O(k N D), memory O(N D).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from domainwright.curate.selection import SELECTIONS, Chosen, Seen, best

_SPANNED = 1e-5
"""Part of a squared length, below which float32 cannot tell a row from the span of others."""


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Dpp:
    """The row that adds most volume, again and again."""

    needs: ClassVar[tuple[str, ...]] = ("vectors",)

    def choose(self, seen: Seen, count: int) -> Chosen:
        z_ND = seen.vectors_ND
        assert z_ND is not None, "dpp needs vectors"
        square_N = np.einsum("nd,nd->n", z_ND, z_ND).astype(float)
        least = _SPANNED * max(float(square_N.max()), 1e-12)
        left_N, basis = square_N.copy(), list[np.ndarray]()
        chosen = list[int]()
        while len(chosen) < count:
            row = best(left_N)
            if left_N[row] <= least and basis:
                left_N, basis = square_N.copy(), []
                left_N[chosen] = -np.inf
                row = best(left_N)
            chosen.append(row)
            if left_N[row] > least:
                basis.append(_outside(z_ND[row], basis))
                left_N -= (z_ND @ basis[-1].astype(z_ND.dtype)).astype(float) ** 2
                np.maximum(left_N, 0, out=left_N, where=np.isfinite(left_N))
            left_N[chosen] = -np.inf
        return Chosen(chosen)


def _outside(z_D: np.ndarray, basis: list[np.ndarray]) -> np.ndarray:
    """Unit vector of the part of z outside the span of the basis."""
    part_D = z_D.astype(float)
    # Twice: after one pass of float64 the part is not orthogonal when it is small.
    for _ in range(2):
        for unit_D in basis:
            part_D = part_D - (part_D @ unit_D) * unit_D
    outside: np.ndarray = part_D / np.linalg.norm(part_D)
    return outside
