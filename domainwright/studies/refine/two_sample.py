"""Are two samples drawn from one distribution? Permutation tests that keep groups whole.

    MMD²(X, Y) = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)       pairs x ≠ x', y ≠ y'
    k(a, b) = exp(-‖a - b‖² / 2σ²)       σ²: median squared distance of the pooled pairs / 2
    p = (1 + #{permutations with a statistic at least as large}) / (1 + permutations)

Under no difference the groups of both samples are exchangeable, so p ≤ α happens in at most a
share α of cases, exactly, whatever the distribution. Rows of one document are not exchangeable
one by one: three questions about one device would look like a region of its own.

Source: Gretton et al. 2012, JMLR 13:723 (MMD, unbiased form, median heuristic); Phipson and Smyth
2010 (the one in the p-value). Dimension key: N pooled rows, P permutations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from domainwright.core.seeds import generator

PERMUTATIONS = 999


@dataclass(frozen=True, slots=True)
class TwoSample:
    statistic: float
    p: float


def mmd(
    x_ND: np.ndarray,
    y_ND: np.ndarray,
    groups_x: Sequence[str] | None = None,
    groups_y: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> TwoSample:
    """Maximum mean discrepancy of two samples of vectors, at least two rows each.

    Args:
        groups_x, groups_y: the group of each row; None: every row is its own.
    """
    z_ND = np.concatenate([x_ND, y_ND]).astype(float)
    square_N = (z_ND**2).sum(axis=1)
    far_NN = np.maximum(square_N[:, None] + square_N - 2 * z_ND @ z_ND.T, 0.0)
    off_NN = ~np.eye(len(z_ND), dtype=bool)
    middle = float(np.median(far_NN[off_NN]))
    k_NN = np.where(off_NN, np.exp(-far_NN / max(middle, 1e-12)), 0.0)
    sides_PN = _sides(groups_x, groups_y, len(x_ND), len(y_ND), seed)
    return _judged(_mmd2(k_NN, sides_PN))


def mean_difference(
    x_N: np.ndarray,
    y_N: np.ndarray,
    groups_x: Sequence[str] | None = None,
    groups_y: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> TwoSample:
    """mean(y) - mean(x); p is two-sided."""
    z_N = np.concatenate([x_N, y_N]).astype(float)
    y_PN = _sides(groups_x, groups_y, len(x_N), len(y_N), seed)
    means_P = (y_PN @ z_N) / y_PN.sum(1) - ((1 - y_PN) @ z_N) / (1 - y_PN).sum(1)
    return TwoSample(float(means_P[0]), _judged(np.abs(means_P)).p)


def _mmd2(k_NN: np.ndarray, y_PN: np.ndarray) -> np.ndarray:
    """Unbiased MMD² of every division (P,)."""
    x_PN = 1 - y_PN
    yk_PN = y_PN @ k_NN
    yy_P, xy_P = (yk_PN * y_PN).sum(1), (yk_PN * x_PN).sum(1)
    xx_P = k_NN.sum() - yy_P - 2 * xy_P
    m_P, n_P = x_PN.sum(1), y_PN.sum(1)
    found: np.ndarray = (
        xx_P / np.maximum(m_P * (m_P - 1), 1)
        + yy_P / np.maximum(n_P * (n_P - 1), 1)
        - 2 * xy_P / (m_P * n_P)
    )
    return found


def _sides(
    groups_x: Sequence[str] | None,
    groups_y: Sequence[str] | None,
    count_x: int,
    count_y: int,
    seed: int,
) -> np.ndarray:
    """1 where a row is on Y's side (1 + P, N): first as it is, then by exchanged groups."""
    # A group of either side is one of its own: they come from different files.
    names = [("x", g) for g in (groups_x or range(count_x))]
    names += [("y", g) for g in (groups_y or range(count_y))]
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    own_N = np.array([number[name] for name in names])
    on_y = np.array([side == "y" for side, _ in number], dtype=float)
    rng = generator(seed, "two samples")
    drawn = [on_y, *(rng.permutation(on_y) for _ in range(PERMUTATIONS))]
    return np.stack(drawn)[:, own_N]


def _judged(statistic_P: np.ndarray) -> TwoSample:
    """The first is observed; those of equal divisions differ in the last bits."""
    observed = float(statistic_P[0])
    near = 1e-12 * max(1.0, abs(observed))
    hits = int((statistic_P[1:] >= observed - near).sum())
    return TwoSample(observed, (1 + hits) / len(statistic_P))
