"""Which labels are wrong? Confident learning, from probabilities that no row's own label taught.

    t_k      mean of p(k) over the rows labelled k
    guess    the likeliest of the labels with p(k) ≥ t_k; none where there is no such label
    C_ij     rows labelled i whose guess is j, at least 1 on the diagonal
    Q_ij     C_ij · (rows labelled i) / Σ_j C_ij        an estimate of how many of i are truly j
    margin   p(given) - max of the others' p

A row off the diagonal whose guess is likelier than its label is suspect; the lower its margin,
the more.

Source: Northcutt, Jiang & Chuang 2021, arXiv:1911.00068, section 3.

Dimension key: N rows, K labels.
"""

from dataclasses import dataclass

import numpy as np

_EQUAL = 1e-6
"""Probabilities nearer than this to a threshold reach it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """What the probabilities say about the given labels."""

    threshold_K: np.ndarray
    joint_KK: np.ndarray
    """C: given label by guess, whole numbers."""
    calibrated_KK: np.ndarray
    """Q: its rows sum to the rows of each given label."""
    guess_N: np.ndarray
    """-1: no label is confident."""
    margin_N: np.ndarray
    suspects: list[int]
    """Numbers of the suspect rows, the most suspect first."""

    @property
    def wrong_share(self) -> float:
        """Estimated share of wrong labels among all rows."""
        return float(1 - np.trace(self.calibrated_KK) / self.calibrated_KK.sum())


def doubts(label_N: np.ndarray, odds_NK: np.ndarray) -> Doubts:
    """Confident learning.

    Args:
        label_N: number of the given label of each row.
        odds_NK: probabilities of the labels by a model that has not seen the row.
    """
    count, labels = odds_NK.shape
    counts_K = np.bincount(label_N, minlength=labels)
    own_N = odds_NK[np.arange(count), label_N]
    # Above every probability where no row has the label: nothing is guessed to be it.
    threshold_K = np.full(labels, 2.0)
    for label in np.flatnonzero(counts_K):
        threshold_K[label] = own_N[label_N == label].mean()
    confident_NK = odds_NK >= threshold_K - _EQUAL
    guess_N = np.where(confident_NK, odds_NK, -1.0).argmax(1)
    guess_N[~confident_NK.any(1)] = -1
    sure = guess_N >= 0
    joint_KK = np.zeros((labels, labels), dtype=int)
    np.add.at(joint_KK, (label_N[sure], guess_N[sure]), 1)
    np.fill_diagonal(joint_KK, np.maximum(joint_KK.diagonal(), 1))
    others_NK = odds_NK.copy()
    others_NK[np.arange(count), label_N] = -np.inf
    margin_N = own_N - others_NK.max(1)
    likelier = odds_NK[np.arange(count), guess_N] > own_N + _EQUAL
    suspect = np.flatnonzero(sure & (guess_N != label_N) & likelier)
    return Doubts(
        threshold_K=threshold_K,
        joint_KK=joint_KK,
        calibrated_KK=joint_KK / joint_KK.sum(1, keepdims=True) * counts_K[:, None],
        guess_N=guess_N,
        margin_N=margin_N,
        suspects=suspect[np.argsort(margin_N[suspect], kind="stable")].tolist(),
    )
