"""The numbers that a score is the mean of."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from domainwright.evaluate.records import Item
from domainwright.maths.balanced import weights, within


def scores(items: Sequence[Item]) -> np.ndarray:
    """One number per item (I,), or per training seed and item (S, I)."""
    weight_I = np.array([x.weight for x in items], dtype=float)
    if items and items[0].marks:
        return np.array([x.marks for x in items], dtype=float).T * weight_I
    return np.array([x.mark.correct for x in items], dtype=float) * weight_I


def spread(values: np.ndarray, items: Sequence[Item]) -> np.ndarray:
    """Values whose mean varies as theirs does: within the labels, where labels count alike."""
    if all(x.weight == 1 for x in items):
        return values
    return within(values, [x.reference for x in items])


def means(values: np.ndarray) -> np.ndarray:
    """Over training seeds."""
    return np.atleast_2d(values).mean(axis=0)


def weighed(items: Sequence[Item]) -> list[Item]:
    """Some of the test items as a score of their own: where labels count alike, alike in these."""
    if all(x.weight == 1 for x in items):
        return list(items)
    weight = weights([x.reference for x in items])
    return [replace(x, weight=weight[x.reference]) for x in items]
