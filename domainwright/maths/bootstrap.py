"""Is strategy B better than A, or was it the draw of the test items?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with the ends of its 95 % interval, in the units of what was averaged."""

    mean: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """True when the interval does not contain zero."""
        return self.low > 0 or self.high < 0


def interval(
    values_I: np.ndarray, groups: Sequence[str] | None = None, *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Percentile bootstrap of a mean; for a paired difference give B's scores minus A's.

    Args:
        values_I: one number per test item, shape (I,); or of several training seeds, shape
            (S, I): each draw then takes seeds anew too, so that their luck is in the interval.
        groups: the group of each item. Whole groups are drawn: items of one document or
            patient are not independent, and drawing them one by one would narrow the
            interval. None: every item is its own group.

    Source: Efron & Tibshirani 1993, chapter 13; clusters: Davison & Hinkley 1997, section 3.8.
    """
    values_I = np.asarray(values_I, dtype=float)
    if not values_I.size:
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(means_of_draws(values_I, groups, draws, seed), [0.025, 0.975])
    return Interval(float(values_I.mean()), float(low), float(high))


def apart(
    values_I: np.ndarray,
    other_J: np.ndarray,
    groups: Sequence[str] | None = None,
    other_groups: Sequence[str] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of mean(values) - mean(other), two sets of items drawn independently.

    Source: Efron & Tibshirani 1993, chapter 8 (the two-sample problem).
    """
    mine, other = np.asarray(values_I, dtype=float), np.asarray(other_J, dtype=float)
    drawn = means_of_draws(mine, groups, draws, seed) - means_of_draws(
        other, other_groups, draws, seed + 1
    )
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(mine.mean() - other.mean()), float(low), float(high))


def means_of_draws(
    values_I: np.ndarray, groups: Sequence[str] | None, draws: int, seed: int
) -> np.ndarray:
    """The mean of every draw of whole groups, shape (draws,)."""
    values_SI = np.atleast_2d(values_I)
    sums_SG = np.stack([by_group(values, groups)[0] for values in values_SI])
    counts_G = by_group(values_SI[0], groups)[1]
    seeds, groups_drawn = sums_SG.shape
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    # In slices, so that ten thousand draws of a large test set do not fill the memory.
    for start in range(0, draws, 500):
        few = min(500, draws - start)
        pick_DG = rng.integers(0, groups_drawn, size=(few, groups_drawn))
        counts_D = counts_G[pick_DG].sum(axis=1)
        if seeds == 1:
            sums_D = sums_SG[0][pick_DG].sum(axis=1)
        else:
            pick_DS = rng.integers(0, seeds, size=(few, seeds))
            mean_DG = sums_SG[pick_DS].mean(axis=1)
            sums_D = np.take_along_axis(mean_DG, pick_DG, axis=1).sum(axis=1)
        means[start : start + few] = sums_D / counts_D
    return means


def by_group(values_I: np.ndarray, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """(sum, count) of the items of each group, groups in order of first appearance."""
    if groups is None:
        return values_I, np.ones_like(values_I)
    numbers: dict[str, int] = {}
    index_I = np.array([numbers.setdefault(g, len(numbers)) for g in groups])
    return (
        np.bincount(index_I, weights=values_I, minlength=len(numbers)),
        np.bincount(index_I, minlength=len(numbers)).astype(float),
    )
