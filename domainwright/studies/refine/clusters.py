"""Groups of like vectors: spherical k-means, the number of groups by their silhouette.

    assign   argmax_k z_n · c_k                c_k: mean of its vectors, of length 1
    s_n      (b_n - a_n) / max(a_n, b_n)       a: mean distance to its own group without itself,
                                               b: to the nearest other group; distance 1 - z · z'

The first centres are found by farthest first from the vector nearest to the mean, so nothing is
drawn. One group stays one where no division has a mean silhouette of LEAST.

Source: Dhillon and Modha 2001 (spherical k-means); Rousseeuw 1987 (silhouettes); Gonzalez 1985.
Dimension key: N vectors, D their numbers, K groups.
"""

import numpy as np

LEAST = 0.1
"""Mean silhouette from which groups are groups."""
FEWEST = 6
"""Fewer errors than these are one group."""
MOST_GROUPS = 6
ROUNDS = 50


def clusters(z_ND: np.ndarray) -> np.ndarray:
    """Number of its group for every unit vector (N,), from 0, the largest group first."""
    count = len(z_ND)
    best_N, best = np.zeros(count, dtype=int), LEAST
    if count < FEWEST:
        return best_N
    for groups in range(2, min(MOST_GROUPS, count // 3) + 1):
        found_N = k_means(z_ND, groups)
        value = silhouette(z_ND, found_N)
        if value > best:
            best_N, best = found_N, value
    sizes = np.bincount(best_N)
    rank = np.empty(len(sizes), dtype=int)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return np.asarray(rank[best_N])


def k_means(z_ND: np.ndarray, groups: int) -> np.ndarray:
    """Numbers of at most `groups` groups (N,); groups that end up empty are left out."""
    c_KD = z_ND[_farthest_first(z_ND, groups)]
    own_N = np.full(len(z_ND), -1)
    for _ in range(ROUNDS):
        now_N = np.argmax(z_ND @ c_KD.T, axis=1)
        if np.array_equal(now_N, own_N):
            break
        own_N = now_N
        for k in range(groups):
            if (own_N == k).any():
                mean_D = z_ND[own_N == k].mean(axis=0)
                c_KD[k] = mean_D / max(np.linalg.norm(mean_D), 1e-12)
    return np.unique(own_N, return_inverse=True)[1]


def silhouette(z_ND: np.ndarray, own_N: np.ndarray) -> float:
    """Mean silhouette; a vector alone in its group counts 0, and one group has -1."""
    sizes_K = np.bincount(own_N)
    if len(sizes_K) < 2:
        return -1.0
    far_NN = 1 - z_ND @ z_ND.T
    np.fill_diagonal(far_NN, 0.0)
    sums_NK = np.stack([far_NN[:, own_N == k].sum(axis=1) for k in range(len(sizes_K))], axis=1)
    everyone = np.arange(len(z_ND))
    a_N = sums_NK[everyone, own_N] / np.maximum(sizes_K[own_N] - 1, 1)
    others_NK = sums_NK / sizes_K
    others_NK[everyone, own_N] = np.inf
    b_N = others_NK.min(axis=1)
    s_N = (b_N - a_N) / np.maximum(np.maximum(a_N, b_N), 1e-12)
    return float(np.where(sizes_K[own_N] == 1, 0.0, s_N).mean())


def _farthest_first(z_ND: np.ndarray, count: int) -> list[int]:
    chosen = [int(np.argmax(z_ND @ z_ND.mean(axis=0)))]
    while len(chosen) < count:
        near_N = (z_ND @ z_ND[chosen].T).max(axis=1)
        near_N[chosen] = np.inf
        chosen.append(int(np.argmin(near_N)))
    return chosen
