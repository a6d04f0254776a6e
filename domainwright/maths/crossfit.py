"""Intervals over items that were answered out of fold, by models trained on each other's rows.

Every row i is in one of K folds and is answered by a model trained on the other folds, so the
paired differences are

    d_i = θ + u_i + t_k + w_k        for i in fold k

u_i is the luck of the row as a question, t_k that of the rows that the model of fold k was trained
on, w_k that of its seed. A bootstrap of groups draws the items as if each had a model of its own,
and sees the u_i alone. Two things are missing.

**Items of a fold share a model.** The t_k and w_k show between the folds: with n_k of the n items
in fold k and m_k their mean, the mean of K independent fold means has the variance

    V_fold = K / (K - 1) · Σ_k (n_k / n)² (m_k - m)²

and where that is larger than the bootstrap's V, it takes its place. Seeds are averaged first.

**Models of different folds share rows.** Each row trains K - 1 of the K models, so what it is worth
as an example does not show between the folds: with t_k the mean worth h_j of the rows that fold k
trains on, the mean of all t_k is that of all h_j, whose variance does not fall with K. Nadeau and
Bengio take the correlation of two models' means to be the share of the rows that is tested,
ρ = n_test / n, which makes the variance of their mean

    V · (1 / K + ρ / (1 - ρ)) / (1 / K) = V · (1 + K · n_test / n_train) = V · (2 K - 1) / (K - 1)

for equal folds: 2.25 V for five, which is right where a row's luck as an example is about that
as a question, and too wide where training hardly depends on its rows. No estimate from one set of
rows could tell the two apart (Bengio and Grandvalet 2004, Journal of Machine Learning Research 5).

    interval = m + √(max(V, V_fold) / V · (2 K - 1) / (K - 1)) · (draws of the bootstrap - m)

Sources: Nadeau and Bengio 2003, Machine Learning 52, section 3; Bouckaert and Frank 2004, PAKDD
(the same factor for cross-validation).
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from domainwright.maths.bootstrap import DRAWS, Interval, by_group, means_of_draws


def shared_rows(folds: int) -> float:
    """By how much the variance grows because each model is trained on other models' rows.

    >>> shared_rows(5), shared_rows(2)
    (2.25, 3.0)
    """
    return (2 * folds - 1) / (folds - 1)


def widening(
    values_I: np.ndarray, groups: Sequence[str] | None, fold_I: Sequence[int], folds: int
) -> float:
    """Factor on the variance of a bootstrap of groups.

    Args:
        values_I: one number per item, or of several training seeds, shape (S, I).
        fold_I: the fold of each item.
        folds: of the study; some may have no item here.
    """
    values = np.atleast_2d(np.asarray(values_I, dtype=float)).mean(axis=0)
    sums_G, counts_G = by_group(values, groups)
    of_groups = float((((sums_G - values.mean() * counts_G) / values.size) ** 2).sum())
    sums_K, counts_K = by_group(values, [str(k) for k in fold_I])
    there = len(sums_K)
    apart = float((((sums_K - values.mean() * counts_K) / values.size) ** 2).sum())
    of_folds = there / (there - 1) * apart if there > 1 else 0.0
    return max(1.0, of_folds / of_groups if of_groups else 1.0) * shared_rows(folds)


def crossfitted(
    values_I: np.ndarray,
    groups: Sequence[str] | None,
    fold_I: Sequence[int],
    folds: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The mean of items answered out of fold, with the ends of its 95 % interval.

    Args:
        As `widening`.
    """
    values = np.atleast_2d(np.asarray(values_I, dtype=float)).mean(axis=0)
    if not values.size:
        return Interval(float("nan"), float("nan"), float("nan"))
    mean = float(values.mean())
    low, high = np.quantile(means_of_draws(values, groups, draws, seed), [0.025, 0.975])
    wider = widening(values, groups, fold_I, folds) ** 0.5
    return Interval(mean, mean + wider * float(low - mean), mean + wider * float(high - mean))


def deflated(p: float, factor: float) -> float:
    """A two-sided p-value where the variance is `factor` times what the test took it to be.

        z = Φ⁻¹(1 - p/2),   p' = 2 (1 - Φ(z / √factor))

    >>> round(deflated(0.05, 1.0), 3), round(deflated(0.003, 2.25), 3)
    (0.05, 0.048)
    """
    if factor == 1 or not 0 < p < 1:
        return p
    normal = NormalDist()
    return 2 * normal.cdf(normal.inv_cdf(p / 2) / factor**0.5)
