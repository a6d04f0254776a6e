"""Every selection: the contract all of them keep, and each against its formula or brute force."""

import itertools

import numpy as np
import pytest

from domainwright.core.errors import ConfigError, UnknownName
from domainwright.curate.select import SelectSettings, select
from domainwright.curate.selection import SELECTIONS, Seen
from tests.tiny import chat

NAMES = SELECTIONS.names()
DRAWN = ("random", "relevance", "perplexity")
"""Those that draw by lot: of equal rows either may come first."""


def vectors(rows, size=6, seed=0):
    drawn = np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def seen(rows=20, seed=0, **known):
    rng = np.random.default_rng(seed + 1)
    alone = rng.uniform(2, 4, rows)
    everything = {
        "vectors_ND": vectors(rows, seed=seed),
        "target_vectors_MD": vectors(9, seed=seed + 2),
        "loss_N": alone - rng.uniform(0.1, 1, rows),
        "alone_N": alone,
        "margin_N": None,
        "influence_N": rng.uniform(-1, 1, rows),
        "length_N": rng.integers(10, 900, rows),
        "bags_N": [rng.integers(0, 50, 9).astype(np.uint16) for _ in range(rows)],
        "target_B": np.bincount(np.arange(25), minlength=10_000),
    }
    return Seen(count=rows, seed=seed, **{**everything, **known})


def chosen(name, known, count):
    return SELECTIONS.get(name)().choose(known, count).rows


@pytest.mark.parametrize("name", NAMES)
def test_the_contract(name):
    assert SELECTIONS.get(name).__module__.endswith(f".{name}")
    known = seen(40)
    found = chosen(name, known, 7)
    assert found == chosen(name, known, 7)
    assert len(set(found)) == len(found) == 7 and set(found) <= set(range(40))
    assert all(type(row) is int for row in found)
    assert chosen(name, known, 3) == found[:3], "the smaller choice begins the larger"


@pytest.mark.parametrize("name", NAMES)
def test_equal_rows_are_taken_in_their_order(name):
    if name in DRAWN:
        return
    twice = seen(10)
    alike = Seen(
        count=20,
        vectors_ND=np.repeat(twice.vectors_ND, 2, axis=0),
        target_vectors_MD=twice.target_vectors_MD,
        loss_N=np.repeat(twice.loss_N, 2),
        alone_N=np.repeat(twice.alone_N, 2),
        influence_N=np.repeat(twice.influence_N, 2),
    )
    found = chosen(name, alike, 4)
    assert all(row - 1 in found[: found.index(row)] for row in found if row % 2)


def test_the_seed_draws_other_rows():
    assert chosen("random", seen(seed=1), 8) != chosen("random", seen(seed=2), 8)


@pytest.mark.parametrize("seed", range(20))
def test_k_center_leaves_at_most_twice_the_least_distance(seed):
    z = vectors(11, 3, seed)
    far = np.linalg.norm(z[:, None] - z[None], axis=-1)

    def radius(rows):
        return far[:, list(rows)].min(1).max()

    least = min(map(radius, itertools.combinations(range(11), 3)))
    found = chosen("k_center", seen(11, vectors_ND=z), 3)
    assert radius(found) <= 2 * least + 1e-6
    assert found[0] == np.linalg.norm(z - z.mean(0), axis=1).argmin()
    assert found[1] == far[found[0]].argmax()


def covered(near, rows):
    return np.maximum(near[:, list(rows)], 0).max(1).sum()


@pytest.mark.parametrize("seed", range(20))
def test_facility_location_reaches_its_share_of_the_optimum(seed):
    z = vectors(12, 3, seed)
    near = z @ z.T
    found = chosen("facility_location", seen(12, vectors_ND=z), 4)
    most = max(covered(near, rows) for rows in itertools.combinations(range(12), 4))
    assert covered(near, found) >= (1 - 1 / np.e) * most


def test_lazy_greedy_is_greedy():
    z = vectors(300, 5)
    near, rows = z @ z.T, []
    for _ in range(25):
        gains = [covered(near, [*rows, j]) if j not in rows else -1 for j in range(300)]
        rows.append(int(np.argmax(gains)))
    assert chosen("facility_location", seen(300, vectors_ND=z), 25) == rows


@pytest.mark.parametrize("seed", range(5))
def test_dpp_takes_the_row_with_the_largest_determinant(seed):
    z = vectors(30, 8, seed) * np.random.default_rng(seed).uniform(0.5, 2, (30, 1))
    kernel, rows = z @ z.T, []
    for _ in range(8):
        sizes = [
            np.linalg.det(kernel[np.ix_([*rows, j], [*rows, j])]) if j not in rows else -1
            for j in range(30)
        ]
        rows.append(int(np.argmax(sizes)))
    assert chosen("dpp", seen(30, vectors_ND=z.astype(np.float32)), 8) == rows


def test_dpp_begins_anew_where_the_rank_ends():
    z = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2, 2]]
    assert chosen("dpp", seen(6, vectors_ND=z), 6) == [0, 2, 4, 1, 3, 5]
    nothing = seen(4, vectors_ND=np.zeros((4, 2), np.float32))
    assert chosen("dpp", nothing, 4) == [0, 1, 2, 3]


def test_difficulty_keeps_the_highest_ratio_below_one():
    known = seen(4, loss_N=np.array([1.0, 2.0, 3.0, 1.9]), alone_N=np.array([2.0, 2.0, 2.0, 2.0]))
    found = SELECTIONS.get("difficulty")().choose(known, 4)
    assert found.rows == [3, 0]
    assert found.refused[2] == (
        "question_no_help",
        "the answer is no likelier with its question (ratio 2.718)",
    )
    assert found.refused[1][1].endswith("(ratio 1.000)")


def test_uncertainty_takes_small_margins_or_the_upper_band():
    margins = seen(4, margin_N=np.array([0.9, 0.1, 0.5, 0.1]))
    assert chosen("uncertainty", margins, 3) == [1, 3, 2]
    losses = np.arange(101.0)
    found = SELECTIONS.get("uncertainty")().choose(seen(101, loss_N=losses), 101)
    assert found.rows == list(range(95, 4, -1))
    assert {row: reason for row, (reason, _) in found.refused.items()} == {
        **dict.fromkeys(range(5), "too_easy"),
        **dict.fromkeys(range(96, 101), "too_hard"),
    }


def test_perplexity_draws_from_a_band_of_each_length():
    """Long rows are all likelier than short ones: one band would leave the longest out."""
    rng = np.random.default_rng(0)
    length = rng.integers(10, 4_000, 400)
    loss = 6 - length / 1_000 + rng.normal(0, 0.05, 400)
    known = seen(400, loss_N=loss, length_N=length)
    found = SELECTIONS.get("perplexity")(low=0.1, high=0.9).choose(known, 400)
    expected = {}
    edges = [np.quantile(length, n / 10) for n in range(11)]
    for low, high in itertools.pairwise(edges):
        rows = [n for n in range(400) if low < length[n] <= high or low == length[n] == edges[0]]
        for n in rows:
            if loss[n] < np.quantile(loss[rows], 0.1):
                expected[n] = "too_easy"
            elif loss[n] > np.quantile(loss[rows], 0.9):
                expected[n] = "too_hard"
    assert {row: reason for row, (reason, _) in found.refused.items()} == expected
    assert set(found.rows) == set(range(400)) - set(expected)
    kept = length[found.rows]
    assert (kept > np.quantile(length, 0.95)).mean() == pytest.approx(0.05, abs=0.02)
    assert chosen("perplexity", known, 30) != sorted(chosen("perplexity", known, 30))
    whole = SELECTIONS.get("perplexity")(low=0.0, high=1.0).choose(known, 400)
    assert not whole.refused and whole.rows == chosen("random", known, 400)


def test_few_rows_are_one_part():
    known = seen(39, loss_N=np.arange(39.0), length_N=np.arange(39))
    found = SELECTIONS.get("perplexity")().choose(known, 39)
    assert set(found.refused) == {0, 1, 37, 38}


def test_what_is_not_chosen_is_set_aside():
    rows = [chat("Is it?", "No.", name=f"r{n}") for n in range(5)]
    wanted = SelectSettings(method="random", rows=2)
    kept, aside = select(rows, wanted, lambda needs: Seen(count=5))
    assert [row.id for row in kept] == sorted(row.id for row in kept) and len(kept) == 2
    assert {r.id for r in kept} | {x.id for x in aside} == {row.id for row in rows}
    assert {(x.reason, x.detail) for x in aside} == {("not_selected", "random chose 2 other rows")}


def test_wrong_settings_say_what_to_type():
    with pytest.raises(UnknownName, match="k_center"):
        SelectSettings(method="k_centre", rows=3)
    with pytest.raises(ConfigError, match=r"select\.rows is 0"):
        SelectSettings(method="random", rows=0)
    with pytest.raises(ConfigError, match="'low'"):
        SelectSettings(method="uncertainty", rows=3, settings={"lowest": 0.1})
    with pytest.raises(ConfigError, match=r"quantiles 0\.9 and 0\.5"):
        SelectSettings(method="uncertainty", rows=3, settings={"low": 0.9, "high": 0.5})
    with pytest.raises(ConfigError, match="perplexity keeps"):
        SelectSettings(method="perplexity", rows=3, settings={"low": 0.9, "high": 0.5})
    rows = [chat("Is it?", "No.")]
    with pytest.raises(ConfigError, match="1 rows are there"):
        select(rows, SelectSettings(method="random", rows=2), lambda needs: Seen(count=1))
    hopeless = Seen(count=1, loss_N=np.ones(1), alone_N=np.ones(1))
    with pytest.raises(ConfigError, match="refuses all"):
        select(rows, SelectSettings(method="difficulty", rows=1), lambda needs: hopeless)


def test_of_many_rows_a_part_stands_for_the_cover(monkeypatch):
    """Three tight clusters: one row of each is found though only a quarter of the rows count."""
    monkeypatch.setattr("domainwright.curate.selection.facility_location.DEMAND", 100)
    centres = np.repeat(np.eye(3, 6, dtype=np.float32), [200, 150, 50], axis=0)
    z = centres + 0.05 * vectors(400)
    found = chosen("facility_location", seen(400, vectors_ND=z), 3)
    assert sorted(int(z[row].argmax()) for row in found) == [0, 1, 2]


def test_likeness_is_the_mean_of_the_nearest_by_brute_force(monkeypatch):
    known = seen(50, seed=3)
    z, t = known.vectors_ND.astype(float), known.target_vectors_MD.astype(float)
    like = [sum(sorted((float(a @ b) for b in t), reverse=True)[:3]) / 3 for a in z]
    want = sorted(range(50), key=lambda n: -like[n])[:12]
    method = SELECTIONS.get("likeness")(nearest=3)
    assert method.choose(known, 12).rows == want
    monkeypatch.setattr("domainwright.curate.selection.likeness._AT_ONCE", 7)
    assert method.choose(known, 12).rows == want
    # A target of fewer texts than that counts whole.
    one = seen(50, seed=3, target_vectors_MD=known.target_vectors_MD[:1])
    assert method.choose(one, 1).rows == [int(np.argmax(z @ t[0]))]
    with pytest.raises(ConfigError, match="nearest is 0"):
        SelectSettings(method="likeness", rows=1, settings={"nearest": 0})
