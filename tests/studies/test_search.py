"""The race for a method and its learning rate: what it costs, whom it keeps, what it survives."""

import json

import numpy as np
import pytest

from domainwright.core.errors import RunFailed
from domainwright.studies import _training as module
from domainwright.studies._probes import BUILD_SECONDS
from domainwright.studies.api import decide
from domainwright.studies.records import Candidate
from domainwright.studies.search import (
    COST,
    FEWEST_STEPS,
    RUNGS,
    VISITS,
    race,
    rungs_of,
    size_of_race,
    without_winner,
)
from tests.studies import world

STEPS = 144
ROWS = 40


def field_of(count, of=STEPS):
    methods = [f"method{n}" for n in range(max(1, count // 3))]
    rates = (1e-3, 3e-3, 3e-4) if count >= 3 else (1e-3,)
    return [Candidate(method=m, learning_rate=r, of=of) for m in methods for r in rates][:count]


class Curves:
    """Learning curves a + b · t^-p with rows that differ more than the candidates do."""

    def __init__(self, field, seed, spread=0.05, noise=0.05):
        rng = np.random.default_rng(seed)
        self.end = {c.name: 2.0 + spread * rng.standard_normal() for c in field}
        self.speed = {c.name: rng.uniform(0.8, 1.2) for c in field}
        self.rows = rng.standard_normal(ROWS)
        self.rng, self.noise = rng, noise
        self.at = dict.fromkeys(self.end, 0)
        self.walked = 0

    def loss(self, name, step):
        return self.end[name] + self.speed[name] / (1 + step / 8)

    def __call__(self, candidate, until):
        assert until >= self.at[candidate.name]
        self.walked += until - self.at[candidate.name]
        self.at[candidate.name] = until
        own = self.noise * self.rng.standard_normal(ROWS)
        mean = self.loss(candidate.name, until)
        values = (mean + self.rows + own) * 10
        return [(f"row{i}", float(x), 10) for i, x in enumerate(values)]


@pytest.mark.parametrize("count", [1, 3, 9, 27])
@pytest.mark.parametrize("spread", [0.0, 0.05, 1.0])
def test_a_race_costs_what_it_says(tmp_path, count, spread):
    field = field_of(count)
    curves = Curves(field, seed=count, spread=spread)
    found = race(field, STEPS, curves, tmp_path, {})
    curves(found.winner, STEPS)
    assert found.runs == pytest.approx(curves.walked / STEPS)
    assert found.runs == pytest.approx(COST[count])
    assert found.rungs == rungs_of(count, STEPS)
    assert [c.decision for c in found.candidates].count("chosen") == 1
    assert {c.decision for c in found.candidates} <= {"chosen", "stopped"}


def test_the_winner_is_as_good_as_that_of_an_exhaustive_search(tmp_path):
    """Regret within one standard error of a row's mean, in 18 of 20 studies."""
    fine = 0
    for seed in range(20):
        field = field_of(9)
        curves = Curves(field, seed)
        found = race(field, STEPS, curves, tmp_path / str(seed), {})
        at_end = {c.name: curves.loss(c.name, STEPS) for c in field}
        regret = at_end[found.winner.name] - min(at_end.values())
        fine += regret <= float(np.std(curves.rows) / np.sqrt(ROWS))
    assert fine >= 18


def test_nine_candidates_take_at_most_two_and_a_half_runs_and_27_three_and_a_fifth():
    most = {1: 1.0, 3: 2.0, 9: 2.5, 27: 3.2}
    for count, runs in most.items():
        assert COST[count] <= runs
        for steps in range(FEWEST_STEPS.get(count, 1), 700):
            taken = since = 0
            for (alive, _), until in zip(RUNGS[count], rungs_of(count, steps), strict=True):
                taken, since = taken + alive * (until - since), until
            assert since == steps and taken <= runs * steps


def test_where_rows_cannot_tell_the_last_place_goes_to_a_method_that_would_be_lost(tmp_path):
    field = field_of(9)
    first, last, other = (0, 1, 3), 2, 6

    def raced(folder, other_is_tied):
        def advance(candidate, until):
            place = [c.name for c in field].index(candidate.name)
            rng = np.random.default_rng(place)
            # The last is of the first method, and ahead of the other by less than rows can tell.
            mean = {**dict.fromkeys(first, 2.0), last: 3.0}.get(place, 6.0)
            if place == other and other_is_tied:
                mean = 3.01
            return [(f"r{i}", mean + 0.3 * rng.standard_normal(), 1) for i in range(ROWS)]

        found = race(field, STEPS, advance, folder, {})
        return {c.name for c in found.candidates if c.steps > STEPS // 12}

    assert raced(tmp_path / "tied", True) == {field[n].name for n in (*first, other)}
    assert raced(tmp_path / "told", False) == {field[n].name for n in (*first, last)}


def test_the_second_at_a_third_of_the_run_may_still_win(tmp_path):
    """The rows are sure of who is ahead there, and are wrong."""
    field = field_of(9)
    fast, slow = field[0].name, field[4].name

    def advance(candidate, until):
        mean = 3.0
        if candidate.name == fast:
            mean = 2.0
        if candidate.name == slow:
            mean = 2.5 if until < STEPS // 3 else 2.1 if until == STEPS // 3 else 1.8
        return [(f"r{i}", mean + 0.01 * i, 1) for i in range(ROWS)]

    found = race(field, STEPS, advance, tmp_path, {})
    assert found.winner.name == slow and found.winner.steps == STEPS // 2
    (second,) = (c for c in found.candidates if c.name == fast)
    assert second.decision == "stopped" and "After 72 of 144 steps" in second.reason


def test_decided_losers_are_stopped_with_the_figures(tmp_path):
    field = field_of(3)
    found = race(field, 60, Curves(field, 0, spread=1.0, noise=0.01), tmp_path, {})
    for candidate in found.candidates:
        if candidate.decision == "stopped":
            assert candidate.behind.low > 0
            figures = f"{candidate.steps} of 60 steps its development loss is "
            assert f"After {figures}{candidate.behind.mean:.3f}" in candidate.reason
    assert sorted(c.steps for c in found.candidates) == [20, 40, 40]


def test_the_winner_is_behind_nobody_where_it_won(tmp_path):
    """It was, at the rung before."""
    field = field_of(3)
    means = {20: (1.0, 2.0, 3.0), 40: (2.0, 1.0)}

    def advance(candidate, until):
        mean = means[until][[c.name for c in field].index(candidate.name)]
        return [(f"r{i}", mean + 0.01 * i, 1) for i in range(ROWS)]

    found = race(field, 60, advance, tmp_path, {})
    assert found.winner.name == field[1].name and found.winner.behind is None


def test_rows_of_one_group_are_not_independent(tmp_path):
    """Forty rows of two documents tell less than forty rows."""
    field = field_of(3)
    losses = {}
    for name, groups in (("own", {}), ("two", {f"row{i}": str(i % 2) for i in range(ROWS)})):
        curves = Curves(field, 3, spread=0.02, noise=0.3)
        losses[name] = race(field, 60, curves, tmp_path / name, groups)
    wide, narrow = (
        [c.behind.high - c.behind.low for c in losses[n].candidates if c.behind]
        for n in ("two", "own")
    )
    assert wide != narrow


def test_a_candidate_that_fails_is_out_alone(tmp_path):
    field = field_of(9)
    curves = Curves(field, 1)

    def advance(candidate, until):
        if candidate.method == "method0":
            raise RunFailed("The loss is nan.", "lower the rate.")
        if candidate.method == "method1":
            return [("row", float("nan"), 3)]
        return curves(candidate, until)

    found = race(field, STEPS, advance, tmp_path, {})
    assert found.winner.method == "method2"
    reasons = [c.reason for c in found.candidates if c.decision == "failed"]
    assert reasons[:3] == ["The loss is nan."] * 3 and "diverged" in reasons[3]

    def nobody(candidate, until):
        raise RunFailed("The loss is nan.", "lower the rate.")

    with pytest.raises(RunFailed, match=r"No candidate of the search is left: The loss is nan\."):
        race(field, STEPS, nobody, tmp_path / "again", {})


def test_an_interrupted_race_is_read_back(tmp_path):
    field = field_of(9)
    whole = race(field, STEPS, Curves(field, 5), tmp_path / "whole", {})
    curves, calls = Curves(field, 5), []

    def interrupted(candidate, until):
        calls.append(candidate.name)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return curves(candidate, until)

    with pytest.raises(KeyboardInterrupt):
        race(field, STEPS, interrupted, tmp_path / "part", {})
    done = list(calls)
    again = race(field, STEPS, interrupted, tmp_path / "part", {})
    assert not set(calls[11:]) & {c for c in done[:9] if calls.count(c) == 1}
    assert again == whole


def test_a_rung_of_another_study_is_not_read(tmp_path):
    field = field_of(3)
    race(field, 60, Curves(field, 5), tmp_path, {})
    longer, curves = field_of(3, of=90), Curves(field, 6)
    for old, new in ((20, 30), (40, 60)):
        for file in tmp_path.glob(f"*/rung-{old}.json"):
            file.rename(file.with_name(f"rung-{new}.json"))
    race(longer, 90, curves, tmp_path, {})
    assert curves.walked == 3 * 30 + 2 * 30


def test_the_next_best_takes_the_place_of_a_winner_that_failed(tmp_path):
    field = field_of(9)
    found = race(field, STEPS, Curves(field, 2), tmp_path, {})
    second = without_winner(found, "It forgets too much.")
    failed = next(c for c in second.candidates if c.name == found.winner.name)
    assert (failed.decision, failed.reason) == ("failed", "It forgets too much.")
    assert second.winner.steps == max(c.steps for c in found.candidates if c.decision == "stopped")
    assert second.runs == pytest.approx(found.runs + 1 - second.winner.steps / STEPS)
    alone = race(field_of(1), STEPS, Curves(field_of(1), 0), tmp_path / "one", {})
    assert without_winner(alone, "no") is None


def test_the_race_is_as_large_as_the_budget_allows():
    assert size_of_race(10, 1000, None) == (1, 10)
    assert size_of_race(1e6, 500, None) == (27, 500)
    assert size_of_race(3 * 96 * 2.5, 96, None) == (9, 96)
    assert size_of_race(96 * COST[9], 96, None) == (9, 96)
    assert size_of_race(96 * COST[9], 96, None, {9: 1.0}) == (3, 96)
    assert size_of_race(1e6, 20, None) == (1, 20)
    assert size_of_race(50, 1000, 80) == (1, 80)
    for count, fewest in FEWEST_STEPS.items():
        found, steps = size_of_race(fewest * COST[count], 10_000, None)
        assert found == count and steps >= fewest


AUTO = {"strategies": "auto", "train": {"learning_rate": None, "steps": 24}}


@pytest.fixture(scope="module")
def searched(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("searched")
    study = world.study_file(folder, base, **AUTO)
    return study, decide(study, folder / "run")


def test_auto_searches_where_there_is_time(searched):
    _, decided = searched
    search = decided.verdict.search
    assert len(search.candidates) == 3 and search.rungs == [8, 16, 24]
    assert {c.method for c in search.candidates} == {"lora", "bottleneck", "prefix"}
    trained = [s for s in decided.verdict.strategies if s.training]
    assert [s.name for s in trained] == [search.winner.method]
    assert trained[0].training.settings["learning_rate"] == search.winner.learning_rate
    assert trained[0].training.steps == 24
    plan = json.loads((decided.folder / "plan.json").read_text())
    assert len(plan["candidates"]) == 3 and {r["method"] for r in plan["runs"]} == {
        c.method for c in search.candidates
    }
    parts = ("ask_minutes", "train_minutes", "check_minutes")
    beside = plan["minutes"] - sum(s[part] for s in plan["strategies"] for part in parts)
    assert beside > VISITS[3] * BUILD_SECONDS / 60


def test_the_winners_run_is_the_one_it_would_have_had_alone(searched, tmp_path, base):
    _, decided = searched
    winner = decided.verdict.search.winner
    train = {"steps": 24, "learning_rate": winner.learning_rate}
    study = world.study_file(tmp_path, base, strategies=[winner.method], train=train)
    alone = decide(study, tmp_path / "run")
    path = f"trials/{winner.method}/adapter/adapter_model.safetensors"
    assert (alone.folder / path).read_bytes() == (decided.folder / path).read_bytes()


def test_a_search_stopped_and_resumed_ends_with_the_same_verdict(searched, tmp_path):
    study, decided = searched
    count = [0]

    def stop():
        count[0] += 1
        return count[0] == 20

    with pytest.raises(KeyboardInterrupt):
        decide(study, tmp_path / "run", stop=stop)
    again = decide(study, tmp_path / "run", resume=True)
    assert again.verdict.search == decided.verdict.search
    ours, theirs = ([(s.name, s.score) for s in d.verdict.strategies] for d in (again, decided))
    assert ours == theirs


def failing(monkeypatch, fails):
    """`tune` fails where `fails(how often it was called)`; returns what was asked for."""
    tried = []

    def tune(wanted, **how):
        tried.append((wanted.method, wanted.settings.learning_rate))
        if fails(len(tried)):
            raise RunFailed("It forgets too much.", "lower the rate.")
        return real(wanted, **how)

    real = module.tune
    monkeypatch.setattr(module, "tune", tune)
    return tried


def test_a_winner_that_forgets_too_much_gives_way(tmp_path, base, monkeypatch):
    tried = failing(monkeypatch, lambda call: call == 1)
    study = world.study_file(tmp_path, base, **AUTO)
    decided = decide(study, tmp_path / "run")
    assert len(tried) == 2 and tried[0] != tried[1]
    search = decided.verdict.search
    assert (search.winner.method, search.winner.learning_rate) == tried[1]
    assert "It forgets too much." in [c.reason for c in search.candidates]
    adapter = tmp_path / "run" / "trials" / search.winner.method / "adapter"
    assert list(adapter.glob("*.safetensors"))
    # Interrupted before the verdict and taken up again, it is the same.
    for name in ("verdict.json", "manifest.json"):
        (tmp_path / "run" / name).unlink()
    tried.clear()
    again = decide(study, tmp_path / "run", resume=True)
    assert again.verdict.search == search and len(tried) == 2


def test_a_search_that_fails_costs_the_others_nothing(tmp_path, base, monkeypatch):
    def nobody(*_, **__):
        raise RunFailed("No candidate of the search is left.", "name the strategies.")

    monkeypatch.setattr(module, "race", nobody)
    verdict = decide(world.study_file(tmp_path, base, **AUTO), tmp_path / "run").verdict
    states = {r.name: r.status for r in verdict.strategies}
    assert states == {"zero_shot": "done", "instructed": "done", "few_shot": "done",
                      "rag": "done", "lora": "failed"}  # fmt: skip
    assert verdict.search is None
