"""Balanced accuracy as a weighted mean, against scikit-learn and brute force."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from domainwright.maths.balanced import effective, weights, within
from domainwright.maths.bootstrap import interval


@pytest.fixture
def answered():
    """(labels, replies): 12 ill, 30 odd and 158 well, told rightly to 60, 70 and 90 %."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["ill", "odd", "well"], [12, 30, 158])
    share = {"ill": 0.6, "odd": 0.7, "well": 0.9}
    kept = rng.random(200) < [share[x] for x in labels]
    return labels, np.where(kept, labels, rng.permutation(labels))


def weighted(labels, replies):
    weight = weights(list(labels))
    return np.array([weight[x] for x in labels]) * (labels == replies)


def test_the_weighted_mean_is_scikit_learns(answered):
    labels, replies = answered
    values = weighted(labels, replies)
    assert values.mean() == pytest.approx(balanced_accuracy_score(labels, replies))
    assert sum(weights(list(labels))[x] for x in labels) == pytest.approx(len(labels))


def test_its_interval_is_that_of_the_drawn_balanced_accuracies(answered):
    labels, replies = answered
    values = weighted(labels, replies)
    found = interval(within(values, list(labels)))
    assert found.mean == pytest.approx(values.mean())
    rng = np.random.default_rng(1)
    picks = rng.integers(0, 200, (3000, 200))
    drawn = [balanced_accuracy_score(labels[p], replies[p]) for p in picks]
    low, high = np.quantile(drawn, [0.025, 0.975])
    # The first-order form and the ratio itself differ by the curvature, a few per cent here.
    assert found.high - found.low == pytest.approx(high - low, rel=0.08)
    raw = interval(values)
    assert raw.high - raw.low > 1.2 * (high - low), "what `within` is for"


def test_where_every_label_is_told_rightly_nothing_is_open(answered):
    labels, _ = answered
    found = interval(within(weighted(labels, labels), list(labels)))
    assert (found.low, found.high) == (pytest.approx(1.0), pytest.approx(1.0))


def test_seeds_are_kept_apart(answered):
    labels, replies = answered
    both = np.stack([weighted(labels, replies), weighted(labels, labels)])
    found = within(both, list(labels))
    assert found.mean(1) == pytest.approx(both.mean(1))
    assert found[0] == pytest.approx(within(both[0], list(labels)))


def test_as_many_rows_tell_as_much():
    """The variance of the balanced mean of coins, over many test sets of one make-up."""
    labels = np.repeat(["ill", "well"], [20, 180])
    rng = np.random.default_rng(2)
    weight = np.array([weights(list(labels))[x] for x in labels])
    means = (weight * rng.integers(0, 2, (20_000, 200))).mean(1)
    assert 0.25 / means.var() == pytest.approx(effective(list(labels)), rel=0.03)
    assert effective(["a", "b", "c"] * 20) == pytest.approx(60)
