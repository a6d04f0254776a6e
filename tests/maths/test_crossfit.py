"""Intervals out of fold, in a world whose true difference is known in closed form."""

import numpy as np
import pytest

from domainwright.maths.bootstrap import interval
from domainwright.maths.crossfit import crossfitted, deflated, shared_rows, widening
from domainwright.maths.significance import sign_flip

TRUE = 0.1


def study(rng, rows, folds, example_luck, seed_luck, seeds=1):
    """(paired differences (S, I), fold of each item) of one study.

    A row brings its luck u as a question to its own item, and its worth h as an example to every
    model that is trained on it: their mean over the rows of a training set is what that model is
    better by. The mean of all items is TRUE + mean(u) + mean(h) + the mean of the seeds' luck,
    so that TRUE is what the method gains on average, exactly.
    """
    fold = rng.permutation(np.arange(rows) % folds)
    question, example = rng.normal(size=rows), example_luck * rng.normal(size=rows)
    found = np.empty((seeds, rows))
    for k in range(folds):
        here = fold == k
        luck = seed_luck * rng.normal(size=(seeds, 1))
        found[:, here] = TRUE + question[here] + example[~here].mean() + luck
    return found, fold


def covered(how, *, studies=300, **world):
    """Share of studies whose interval holds the true difference."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(studies):
        values, fold = study(rng, **world)
        found = how(values, fold)
        hits += found.low <= TRUE <= found.high
    return hits / studies


def out_of_fold(values, fold):
    return crossfitted(values, None, fold, int(fold.max()) + 1, draws=500)


def plain(values, fold):
    return interval(values.mean(axis=0), draws=500)


@pytest.mark.parametrize("seed_luck", [0.0, 0.3, 0.6])
@pytest.mark.parametrize(("rows", "folds"), [(20, 5), (40, 5), (40, 10), (100, 5)])
def test_the_interval_covers_where_the_luck_of_training_is_that_of_testing(rows, folds, seed_luck):
    world = {"rows": rows, "folds": folds, "example_luck": 1.0, "seed_luck": seed_luck}
    assert 0.90 <= covered(out_of_fold, **world) <= 0.98
    assert covered(plain, **world) < 0.87


def test_eight_rows_are_not_too_few():
    world = {"rows": 8, "folds": 4, "example_luck": 1.0, "seed_luck": 0.3}
    assert covered(out_of_fold, **world) >= 0.90
    assert covered(plain, **world) < 0.80


def test_several_seeds_are_covered_too():
    world = {"rows": 40, "folds": 5, "example_luck": 1.0, "seed_luck": 0.8, "seeds": 3}
    assert 0.90 <= covered(out_of_fold, **world) <= 0.98


def test_where_training_hardly_depends_on_its_rows_the_interval_is_too_wide_and_never_too_narrow():
    world = {"rows": 40, "folds": 5, "example_luck": 0.0, "seed_luck": 0.0}
    assert covered(out_of_fold, **world) >= 0.97


def test_the_factor_is_that_of_nadeau_and_bengio_where_the_folds_agree():
    values, fold = np.array([0.0, 1.0, 0.0, 1.0]), [0, 0, 1, 1]
    assert widening(values, None, fold, 2) == shared_rows(2) == 1 + 2 * (2 / 2)
    mean, ends = 0.5, interval(values)
    found = crossfitted(values, None, fold, 2)
    assert found.mean == mean
    assert mean - found.low == pytest.approx(3**0.5 * (mean - ends.low))
    assert found.high - mean == pytest.approx(3**0.5 * (ends.high - mean))


def test_the_variance_between_the_folds_counts_where_it_is_the_larger():
    """By hand: items 0, 0, 1, 1 in two folds. Groups: 4 · (1/2 / 4)² = 1/16. Folds:
    2 · 2 · (1/2 · 1/2)² = 1/4, four times as much."""
    values, fold = np.array([0.0, 0.0, 1.0, 1.0]), [0, 0, 1, 1]
    assert widening(values, None, fold, 2) == pytest.approx(4 * 3)
    # Two rows of one group are one question: 2 · (1/2 · 1/2)² = 1/8.
    assert widening(values, ["a", "a", "b", "b"], fold, 2) == pytest.approx(2 * 3)


def test_seeds_are_averaged_before_the_folds_are_compared():
    """What one seed has more, the other has less: between the folds nothing is left."""
    values = np.array([[0.0, 0.2, 1.0, 1.2], [1.0, 1.2, 0.0, 0.2]])
    assert widening(values, None, [0, 0, 1, 1], 2) == pytest.approx(shared_rows(2))


def test_items_of_one_fold_alone_are_widened_by_the_studys_folds():
    assert widening(np.array([0.0, 1.0, 1.0]), None, [4, 4, 4], 5) == 2.25
    assert widening(np.array([1.0, 1.0]), None, [0, 1], 5) == 2.25
    assert np.isnan(crossfitted(np.array([]), None, [], 5).mean)


def test_few_rows_in_folds_can_show_what_is_plain():
    """Sixteen rows that one of six strategies alone has right, each of them."""
    p = deflated(sign_flip(np.ones(16)), widening(np.ones(16), None, [n % 5 for n in range(16)], 5))
    assert 6 * p < 0.05


def test_a_p_value_shrinks_its_quantile_by_the_root_of_the_factor():
    # z = 1.96 becomes 1.96 / 1.5 = 1.3067, whose two-sided p is 0.1913.
    assert deflated(0.05, 2.25) == pytest.approx(0.1913, abs=1e-4)
    assert deflated(1.0, 2.25) == 1.0 and deflated(0.2, 1.0) == pytest.approx(0.2)
