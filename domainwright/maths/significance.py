"""p-values for paired comparisons, their correction, and what a test set can show."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from domainwright.maths.bootstrap import by_group

EXACT = 32
"""Groups up to which all patterns of signs are counted: 65,536 for each half."""
LEAST = 1e-300
"""Of a p-value: it is never 0, and its quantile is a number."""


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test on the discordant pairs.

    p = min(1, 2 · P(X ≤ min(b, c))),  X ~ Binomial(b + c, ½)

    Args:
        only_a, only_b: items that only A, only B answered correctly.

    >>> round(mcnemar(1, 9), 4)
    0.0215
    """
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    return min(1.0, 2 * tail)


def sign_flip(
    difference_I: np.ndarray,
    groups: Sequence[str] | None = None,
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> float:
    """Paired permutation test: under no difference, each group's sign is a coin toss.

        p = share of the 2^G sign patterns whose |sum| is at least the observed one

    Up to EXACT groups all patterns are counted, each as a pattern of one half of the groups and one
    of the other. Beyond, `draws` random ones and the observed one are, which cannot tell less
    than 1 / (draws + 1); where it is the smaller, p is Hoeffding's bound on it,

        p ≤ 2 exp(-(Σ d)² / (2 Σ d²))

    so that a clear difference stays clear where the variance is more than the test takes it to be
    (`crossfit.deflated`) and after Holm's correction.

    Source: Hoeffding 1963, Journal of the American Statistical Association 58, theorem 2.
    """
    sums_G, _ = by_group(np.asarray(difference_I, dtype=float), groups)
    sums_G = sums_G[sums_G != 0]
    if not sums_G.size:
        return 1.0
    # Sums of floats in different orders differ in the last bits: equal counts as "as large".
    observed = abs(sums_G.sum()) - 1e-12 * np.abs(sums_G).sum()
    if observed <= 0:
        return 1.0
    if sums_G.size <= EXACT:
        half = sums_G.size // 2
        one, other = _patterns(sums_G[:half]), np.sort(_patterns(sums_G[half:]))
        # As many sums lie as far below zero.
        large = other.size * one.size - np.searchsorted(other, observed - one).sum()
        return float(2 * large / 2**sums_G.size)
    rng = np.random.default_rng(seed)
    hits = 1
    for start in range(0, draws, 500):
        signs = rng.integers(0, 2, size=(min(500, draws - start), sums_G.size)) * 2 - 1
        hits += int((np.abs(signs @ sums_G) >= observed).sum())
    bound = 2 * math.exp(-(observed**2) / (2 * float(sums_G @ sums_G)))
    return min(hits / (draws + 1), max(bound, LEAST))


def _patterns(values_G: np.ndarray) -> np.ndarray:
    """The sums under all 2^G patterns of signs."""
    sums = np.zeros(1)
    for value in values_G:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: p-values that hold for all comparisons together.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted: dict[str, float] = {}
    running = 0.0
    ordered = sorted(p_values.items(), key=lambda pair: pair[1])
    for place, (name, p) in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - place) * p))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def detectable(items: float, discordant: float = 0.2) -> float:
    """Smallest difference of two accuracies that `items` paired items show with 80 % power.

    n = 7.849 (d - Δ²) / Δ²,  so  Δ = √(7.849 d / (n + 7.849))

    Args:
        discordant: share d of items on which the two differ; unknown before the run.

    Source: paired proportions, two-sided 5 %, (1.960 + 0.8416)² = 7.849; methods.md §12.6.

    >>> round(detectable(1740), 3)
    0.03
    """
    return math.sqrt(7.849 * discordant / (items + 7.849))


def detectable_measured(difference_I: np.ndarray, groups: Sequence[str] | None = None) -> float:
    """The same from measured paired differences: 2.8016 standard errors, groups kept whole."""
    values = np.asarray(difference_I, dtype=float)
    sums_G, counts_G = by_group(values, groups)
    if sums_G.size < 2:
        return math.nan
    residual_G = sums_G - values.mean() * counts_G
    error = math.sqrt(sums_G.size / (sums_G.size - 1) * float((residual_G**2).sum())) / values.size
    return 2.8016 * error
