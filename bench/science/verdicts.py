"""From figures of several seeds to a verdict on a published claim.

A criterion is met where the whole 95 % interval of its figure is on the right side of the limit,
not met where the whole of it is on the wrong side, and open in between. A claim is reproduced where
every criterion is met, not reproduced where one is not, and inconclusive otherwise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t with 1 to 9 degrees of freedom; above, the last one is used,
which is a little too wide."""
MOST = 0.8
"""Share of the seeds that counts as most of them: 4 of 5."""


@dataclass(frozen=True, slots=True)
class Paired:
    """A mean over seeds with the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True, slots=True)
class Criterion:
    """One condition of a claim."""

    words: str
    met: bool | None
    """None: the seeds do not decide it."""
    found: str


def paired(values: Sequence[float]) -> Paired:
    """Student's t interval of a mean over seeds; give the differences of two arms, seed by seed.

    >>> str(paired([1.0, 2.0, 3.0]))
    '2 [-0.484, 4.48]'
    """
    values_S = np.asarray(values, dtype=float)
    mean = float(values_S.mean())
    if len(values_S) < 2:
        return Paired(mean, -math.inf, math.inf)
    quantile = QUANTILES[min(len(values_S) - 1, len(QUANTILES)) - 1]
    half = quantile * float(values_S.std(ddof=1)) / math.sqrt(len(values_S))
    return Paired(mean, mean - half, mean + half)


def at_most(words: str, values: Sequence[float], limit: float) -> Criterion:
    """The mean over seeds is at most the limit."""
    found = paired(values)
    met = True if found.high <= limit else False if found.low > limit else None
    return Criterion(words, met, str(found))


def at_least(words: str, values: Sequence[float], limit: float) -> Criterion:
    """The mean over seeds is at least the limit."""
    found = paired(values)
    met = True if found.low >= limit else False if found.high < limit else None
    return Criterion(words, met, str(found))


def in_most(words: str, wins: Sequence[bool]) -> Criterion:
    """So it is in four of five seeds; fewer than half are a no."""
    share = sum(wins) / len(wins)
    met = True if share >= MOST else False if share < 0.5 else None
    return Criterion(words, met, f"{sum(wins)} of {len(wins)} seeds")


def within(words: str, value: float, low: float, high: float) -> Criterion:
    """One figure, known without a spread, lies in a range."""
    return Criterion(words, low <= value <= high, f"{value:.3g}")


def verdict(criteria: Sequence[Criterion]) -> str:
    """reproduced, not reproduced or inconclusive."""
    if all(c.met for c in criteria):
        return "reproduced"
    return "not reproduced" if any(c.met is False for c in criteria) else "inconclusive"


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Correlation of ranks; equal values share the mean of theirs.

    >>> spearman([1, 4, 16, 64], [0.1, 0.2, 0.2, 0.9])
    0.949
    """
    ranks = [_ranks(values) for values in (one, other)]
    if any(r.std() == 0 for r in ranks):
        return 0.0
    return round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 3)


def _ranks(values: Sequence[float]) -> np.ndarray:
    values_I = np.asarray(values, dtype=float)
    below_I = (values_I[:, None] > values_I[None, :]).sum(1)
    equal_I = (values_I[:, None] == values_I[None, :]).sum(1)
    return np.asarray(below_I + (equal_I - 1) / 2)


def reached(curve: Sequence[tuple[float, float]], level: float) -> float | None:
    """Where a falling curve of (value, other) first comes down to a level, by straight lines.

    None: it does not.

    >>> reached([(4.0, 0.0), (2.0, 1.0), (1.0, 3.0)], 1.5)
    2.0
    """
    for (before, start), (after, end) in pairwise(curve):
        if after <= level <= before:
            part = (before - level) / (before - after) if before > after else 1.0
            return start + part * (end - start)
    return None
