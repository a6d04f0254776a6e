"""Labels that count alike, however many rows each has.

    weight of a row of label c      w_c = N / (C · n_c)        mean 1 over the N rows
    balanced accuracy               (1 / N) · Σ_i w_i · right_i  =  mean over the labels of recall

C labels, n_c rows of label c. Its sampling variance, with a spread s² that is the same within
every label, is s² / N_eff:

    N_eff = C² / Σ_c (1 / n_c)

Source: Brodersen et al. 2010, ICPR, "The balanced accuracy and its posterior distribution".
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np


def weights(labels: Sequence[str]) -> dict[str, float]:
    """Label -> weight of each of its rows.

    >>> weights(["ill", "well", "well", "well"])
    {'ill': 2.0, 'well': 0.6666666666666666}
    """
    counts = Counter(labels)
    return {label: len(labels) / (len(counts) * n) for label, n in counts.items()}


def effective(labels: Sequence[str]) -> float:
    """As many rows of equally frequent labels tell as much.

    >>> effective(["ill", "well"] * 50), round(effective(["ill"] * 10 + ["well"] * 90))
    (100.0, 36)
    """
    counts = Counter(labels)
    return len(counts) ** 2 / sum(1 / n for n in counts.values())


def within(values_I: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Weighted values with the mean of all in the place of their label's own.

    The mean is the same, and the spread that of the balanced mean: how many rows of a label
    happened to be drawn is no luck of its score.

    Args:
        values_I: weight times value of each row, shape (I,) or (S, I).
    """
    values, index = np.asarray(values_I, dtype=float), np.unique(labels, return_inverse=True)[1]
    found = np.empty_like(values)
    for label in range(index.max() + 1):
        here = index == label
        own = values[..., here]
        found[..., here] = own - own.mean(-1, keepdims=True)
    return found + values.mean(-1, keepdims=True)
