"""Would more training rows help? The loss at a quarter, a half and all of them, drawn onwards.

    L(n) = c + a · n^-b        through the three points, b within [0.05, 2]

Three runs with equally many passes over their rows, measured on the same development rows. The
interval of what more rows would bring is a bootstrap over groups of those rows, each draw with
a curve of its own; where the curve does not fall, more rows bring nothing that can be seen.

Source of the form: Hestness et al. 2017, arXiv:1712.00409.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np

from domainwright.core.records import Row
from domainwright.core.seeds import share
from domainwright.maths.bootstrap import DRAWS, Interval, interval
from domainwright.studies._format import loss_change
from domainwright.studies.records import CurvePoint, LearningCurve

PARTS = (4, 2, 1)
"""The rows are divided by these."""
FEWEST_ROWS = 64
"""Below it a quarter of the rows is no training set."""
STEEPEST, FLATTEST = 2.0, 0.05
SMALL = 0.01
"""Nats per token that are not worth the work of writing rows."""

Losses = list[tuple[str, float, float]]


def subset(rows: Sequence[Row], part: int, seed: int) -> list[Row]:
    """Whole groups, in a drawn order, until they hold one of `part` of the rows.

    The smaller sets lie within the larger ones.
    """
    drawn = sorted({r.group for r in rows}, key=lambda g: share(seed, f"curve {g}"))
    sizes = Counter(r.group for r in rows)
    before = accumulate((sizes[g] for g in drawn), initial=0)
    taken = {g for g, n in zip(drawn, before, strict=False) if n < len(rows) / part}
    return [r for r in rows if r.group in taken]


def learning_curve(
    rows: Sequence[Row],
    steps: int,
    losses_of: Callable[[Sequence[Row], int, int], Losses],
    groups: Mapping[str, str],
    seed: int,
) -> LearningCurve | None:
    """The curve of one method; None where there are too few rows.

    Args:
        steps: of the run on all rows; smaller sets take as many passes.
        losses_of: (rows, steps, part) -> (row, summed loss, tokens) of every development row
            after that run.
        groups: development row -> group.
    """
    if len(rows) < FEWEST_ROWS:
        return None
    points, tables = [], []
    for part in PARTS:
        chosen = list(rows) if part == 1 else subset(rows, part, seed)
        losses = losses_of(chosen, max(1, round(steps * len(chosen) / len(rows))), part)
        tokens = np.array([n for _, _, n in losses], dtype=float)
        table = np.array([x for _, x, _ in losses]) * len(tokens) / tokens.sum()
        drawn = [groups.get(row, row) for row, _, _ in losses]
        points.append(CurvePoint(rows=len(chosen), loss=interval(table, drawn)))
        tables.append(table)
    more = max(100, round(len(rows) / 200) * 100)
    gain = _gain(np.array(tables), [p.rows for p in points], drawn, more)
    return LearningCurve(points=points, more=more, gain=gain, advice=_advice(more, gain))


def _gain(
    tables_PI: np.ndarray, sizes: Sequence[int], groups: Sequence[str], more: int
) -> Interval:
    """What `more` rows take off the loss, with the ends of its 95 % interval."""
    names = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    index = np.array([names[g] for g in groups])
    sums_PG = np.stack([np.bincount(index, t, minlength=len(names)) for t in tables_PI])
    counts_G = np.bincount(index, minlength=len(names))
    rng = np.random.default_rng(0)
    pick_DG = rng.integers(0, len(names), size=(DRAWS, len(names)))
    drawn_PD = sums_PG[:, pick_DG].sum(-1) / counts_G[pick_DG].sum(-1)
    gains = _onwards(drawn_PD, sizes, more)
    mean = _onwards(tables_PI.mean(1, keepdims=True), sizes, more)[0]
    low, high = np.quantile(gains, [0.025, 0.975])
    return Interval(float(mean), float(low), float(high))


def _onwards(losses_PD: np.ndarray, sizes: Sequence[int], more: int) -> np.ndarray:
    """L(n) - L(n + more) of the curve through three points, one for each column."""
    small, half, whole = (float(n) for n in sizes)
    powers = np.linspace(FLATTEST, STEEPEST, 400)
    ratios = (small**-powers - half**-powers) / (half**-powers - whole**-powers)
    first, second = losses_PD[0] - losses_PD[1], losses_PD[1] - losses_PD[2]
    falls = (first > 0) & (second > 0)
    seen = np.where(falls, first, 1.0) / np.where(falls, second, 1.0)
    # Where a stretch rises there is no such curve: the flattest takes its sign onwards.
    power = np.interp(np.where(falls, seen, ratios[0]), ratios, powers)
    scale = second / (half**-power - whole**-power)
    gains: np.ndarray = scale * (whole**-power - (whole + more) ** -power)
    return gains


def _advice(more: int, gain: Interval) -> str:
    if gain.low <= 0 or gain.mean < SMALL:
        return (
            f"{more} more rows like these would bring nothing that these development rows can "
            f"show ({loss_change(gain)})."
        )
    return f"{more} more rows like these would bring about {loss_change(gain)}."
