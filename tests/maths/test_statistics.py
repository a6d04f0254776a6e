"""Intervals and p-values against full enumeration, SciPy and hand computation."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binomtest

from domainwright.maths.bootstrap import Interval, by_group, interval
from domainwright.maths.significance import (
    detectable,
    detectable_measured,
    holm,
    mcnemar,
    sign_flip,
)


def test_interval_matches_every_possible_resample():
    """Six items have only 6**6 resamples: count them all instead of drawing."""
    values = np.array([0.13, 1.0, -0.41, 0.27, -0.9, 0.57])
    every = [np.mean(values[list(pick)]) for pick in itertools.product(range(6), repeat=6)]
    got = interval(values, draws=40_000)
    np.testing.assert_allclose([got.low, got.high], np.quantile(every, [0.025, 0.975]), atol=0.01)
    assert got.mean == pytest.approx(0.66 / 6) and not got.decided


def test_whole_groups_are_drawn():
    """Five groups of unequal size have 5**5 resamples; the mean is over items, not groups."""
    groups = ["a", "b", "a", "c", "d", "a", "e", "c"]
    values = np.array([1.0, 0.0, 1.0, -1.0, 0.5, 0.8, 0.2, -0.7])
    members = {g: [v for v, h in zip(values, groups, strict=True) if h == g] for g in set(groups)}
    every = []
    for pick in itertools.product(sorted(members), repeat=5):
        drawn = [v for g in pick for v in members[g]]
        every.append(sum(drawn) / len(drawn))
    got = interval(values, groups, draws=40_000)
    np.testing.assert_allclose([got.low, got.high], np.quantile(every, [0.025, 0.975]), atol=0.015)
    assert got.mean == pytest.approx(values.mean())
    alone = interval(values, draws=40_000)
    assert got.high - got.low > 1.1 * (alone.high - alone.low)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).normal(size=30)
    assert interval(values, seed=1) == interval(values, seed=1)
    assert interval(values, seed=1) != interval(values, seed=2)


def test_an_odd_number_of_draws_is_drawn():
    """The draws go in slices of 500; the last one may be shorter."""
    values = np.array([0.0, 1.0])
    assert interval(values, draws=1).low in (0.0, 0.5, 1.0)
    got = interval(values, draws=501)
    assert (got.low, got.high) == (0.0, 1.0)


def test_coverage_is_near_95_percent():
    rng = np.random.default_rng(5)
    inside = 0
    for trial in range(300):
        got = interval(rng.normal(0.3, 1.0, size=60), draws=500, seed=trial)
        inside += got.low <= 0.3 <= got.high
    # Binomial with n = 300 and p = 0.95 lies in [270, 297] with probability 0.999.
    assert 270 <= inside <= 297


def test_decided_means_that_zero_lies_outside():
    assert Interval(1.0, 0.1, 2.0).decided and Interval(-1.0, -2.0, -0.1).decided
    assert not Interval(0.5, 0.0, 1.0).decided and not Interval(-0.5, -1.0, 0.0).decided


def test_no_items_give_no_number():
    got = interval(np.array([]))
    assert math.isnan(got.mean) and math.isnan(got.low) and not got.decided


def test_groups_keep_the_order_of_appearance():
    sums, counts = by_group(np.array([1.0, 2.0, 4.0]), ["z", "a", "z"])
    assert sums.tolist() == [5.0, 2.0] and counts.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("b", range(9))
@pytest.mark.parametrize("c", [0, 1, 2, 5, 8, 40])
def test_mcnemar_is_the_two_sided_binomial_test(b, c):
    want = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(want, abs=1e-12)


def by_hand(values):
    """All sign patterns with itertools and plain sums."""
    observed = abs(sum(values))
    hits = total = 0
    for signs in itertools.product((1, -1), repeat=len(values)):
        total += 1
        hits += abs(sum(s * v for s, v in zip(signs, values, strict=True))) >= observed - 1e-9
    return hits / total


@pytest.mark.parametrize("seed", range(6))
def test_sign_flip_counts_every_pattern(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 4, size=9).astype(float) / 3
    assert sign_flip(values) == pytest.approx(by_hand(values), abs=1e-12)


def test_sign_flip_flips_whole_groups():
    values, groups = [1.0, 0.5, 0.25, 0.125, 0.2, -0.1], ["a", "a", "b", "c", "c", "d"]
    want = by_hand([1.5, 0.25, 0.325, -0.1])
    assert sign_flip(np.array(values), groups) == pytest.approx(want, abs=1e-12)
    assert want != by_hand(values)


def by_convolution(whole):
    """Whole numbers have few sums: the exact distribution of all of them, one sign at a time."""
    ways = {0: 1}
    for value in whole:
        after = Counter()
        for total, count in ways.items():
            after[total + value] += count
            after[total - value] += count
        ways = after
    large = sum(count for total, count in ways.items() if abs(total) >= abs(sum(whole)))
    return large / 2 ** len(whole)


@pytest.mark.parametrize("groups", [13, 24, 31, 32])
def test_sign_flip_counts_also_where_patterns_are_millions(groups):
    rng = np.random.default_rng(groups)
    for shift in (0, 1, 2):
        whole = rng.integers(-3, 4, size=groups) + shift
        whole[whole == 0] = 1
        want = by_convolution(whole.tolist())
        assert sign_flip(whole / 3) == pytest.approx(want, rel=1e-9)


def test_sign_flip_by_drawing_agrees_with_counting():
    rng = np.random.default_rng(4)
    whole = rng.integers(-5, 6, size=60)
    want = by_convolution(whole.tolist())
    assert 0.02 < want < 0.9
    # Four standard errors of 10,000 draws.
    assert abs(sign_flip(whole / 7) - want) < 4 * math.sqrt(want * (1 - want) / 10_000)


def test_sign_flip_tells_how_clear_a_clear_difference_is():
    """10,000 draws alone say no less than 1 in 10,001, however clear it is."""
    for ones in (33, 40, 120, 5000):
        assert 2 / 2**ones < sign_flip(np.ones(ones)) < 1e-6
    for seed in range(5):
        whole = np.random.default_rng(seed).integers(-2, 4, size=50) + 1
        want = by_convolution(whole.tolist())
        assert want < 1e-4 and want <= sign_flip(whole / 3) < 2e-4


def test_sign_flip_is_never_zero_and_is_one_without_a_difference():
    assert sign_flip(np.zeros(5)) == 1.0 and sign_flip(np.array([])) == 1.0


def test_sign_flip_is_valid_under_no_difference():
    rng = np.random.default_rng(2)
    small = sum(sign_flip(rng.normal(size=10)) <= 0.05 for _ in range(400))
    # At most 5 % of 400, plus three standard deviations.
    assert 5 <= small <= 33


def test_holm_by_hand():
    """0.01 x 4, 0.011 x 3 (raised to the one before), 0.02 x 2 (the same), 0.9 x 1."""
    got = holm({"d": 0.9, "a": 0.01, "c": 0.02, "b": 0.011})
    assert list(got) == ["d", "a", "c", "b"]
    assert got == pytest.approx({"a": 0.04, "b": 0.04, "c": 0.04, "d": 0.9})
    assert holm({"a": 0.5, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_the_detectable_difference_is_found_with_80_percent_power():
    """Simulated McNemar-like tests at the difference the formula names."""
    items, share = 400, 0.2
    delta = detectable(items, share)
    rng = np.random.default_rng(3)
    better, worse = (share + delta) / 2, (share - delta) / 2
    drawn = rng.multinomial(items, [better, worse, 1 - share], size=4000)
    gain, variance = (drawn[:, 0] - drawn[:, 1]) / items, (drawn[:, 0] + drawn[:, 1]) / items**2
    found = np.mean(gain / np.sqrt(variance - gain**2 / items) > 1.96)
    assert found == pytest.approx(0.8, abs=0.04)
    # n = 7.849 (d - Δ²) / Δ², solved for n.
    assert 7.849 * (share - delta**2) / delta**2 == pytest.approx(items)


def test_the_measured_detectable_difference():
    """2.8016 is 1.960 + 0.8416; without groups the error is the usual standard error."""
    values = np.random.default_rng(4).normal(size=50)
    want = 2.8016 * values.std(ddof=1) / math.sqrt(50)
    assert detectable_measured(values) == pytest.approx(want)
    # Every item twice in its group: twice the items say nothing new.
    twice = np.repeat(values, 2)
    groups = [str(n) for n in range(50) for _ in "ab"]
    assert detectable_measured(twice, groups) == pytest.approx(want)
    assert detectable_measured(twice) < 0.75 * want
    assert math.isnan(detectable_measured(values, ["one"] * 50))
