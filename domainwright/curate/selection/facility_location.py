"""Rows that stand for all others: facility location by lazy greedy.

    F(S) = Σ_i max_{j in S} max(0, cos(z_i, z_j))

F is submodular, so greedy reaches at least 1 - 1/e of the best k rows. A row's gain only falls
while rows are added: an old gain is a bound, and few gains are computed anew (lazy greedy).

Source: Nemhauser, Wolsey & Fisher 1978; Minoux 1978 (lazy); for data Wei et al. 2015,
"Submodularity in data subset selection". The sum runs over M rows: all, or `DEMAND` drawn ones
where there are more. Time O(N M D) once, then O(M D) for each gain computed anew; memory O(N D),
similarities in blocks.
"""

import heapq
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from domainwright.core.seeds import generator
from domainwright.curate.selection import SELECTIONS, Chosen, Seen

DEMAND = 8192
"""Most rows whose cover counts: a mean over so many is known to about 1 %."""
_BLOCK_NUMBERS = 1 << 24
"""Similarities held at once, float32: 64 MiB."""
_AT_ONCE = 64
"""Gains computed anew in one product: one alone leaves the processor waiting for memory."""


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class FacilityLocation:
    """The row that covers most of what is not covered yet, again and again."""

    needs: ClassVar[tuple[str, ...]] = ("vectors",)

    def choose(self, seen: Seen, count: int) -> Chosen:
        assert seen.vectors_ND is not None, "facility_location needs vectors"
        z_ND = _unit(seen.vectors_ND)
        need_MD = z_ND
        if len(z_ND) > DEMAND:
            drawn = generator(seen.seed, "demand").permutation(len(z_ND))[:DEMAND]
            need_MD = z_ND[np.sort(drawn)]
        reached_M = np.zeros(len(need_MD), dtype=np.float32)
        bounds = [(-_rounded(gain), row) for row, gain in enumerate(_all_gains(z_ND, need_MD))]
        heapq.heapify(bounds)
        known_N = np.zeros(len(z_ND), dtype=int)  # the turn in which a bound was the gain itself
        chosen = list[int]()
        while len(chosen) < count:
            turn = len(chosen)
            while known_N[bounds[0][1]] < turn:
                rows = list[int]()
                while bounds and len(rows) < _AT_ONCE and known_N[bounds[0][1]] < turn:
                    rows.append(heapq.heappop(bounds)[1])
                gain_B = _gains(z_ND[rows], need_MD, reached_M)
                for row, gain in zip(rows, gain_B, strict=True):
                    heapq.heappush(bounds, (-_rounded(gain), row))
                known_N[rows] = turn
            row = heapq.heappop(bounds)[1]
            chosen.append(row)
            np.maximum(reached_M, need_MD @ z_ND[row], out=reached_M)
        return Chosen(chosen)


def _unit(z_ND: np.ndarray) -> np.ndarray:
    length_N1 = np.linalg.norm(z_ND, axis=1, keepdims=True)
    unit: np.ndarray = (z_ND / np.maximum(length_N1, 1e-12)).astype(np.float32)
    return unit


def _all_gains(z_ND: np.ndarray, need_MD: np.ndarray) -> np.ndarray:
    """F({j}) of every row j."""
    nothing_M = np.zeros(len(need_MD), dtype=np.float32)
    step = max(1, _BLOCK_NUMBERS // len(need_MD))
    return np.concatenate(
        [_gains(z_ND[n : n + step], need_MD, nothing_M) for n in range(0, len(z_ND), step)]
    )


def _gains(z_BD: np.ndarray, need_MD: np.ndarray, reached_M: np.ndarray) -> np.ndarray:
    """F(S + {j}) - F(S) of each row j, where `reached_M` is the inner maximum of F(S)."""
    more_BM = z_BD @ need_MD.T - reached_M
    gain_B: np.ndarray = np.maximum(more_BM, 0, out=more_BM).sum(1, dtype=float)
    return gain_B


def _rounded(gain: float) -> float:
    """To six digits: what float32 says of two equal rows differs behind them."""
    return float(f"{gain:.6g}")
