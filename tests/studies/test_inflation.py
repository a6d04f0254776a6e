"""What training rows that give test rows away do to the scores, where they are kept."""

import numpy as np
import pytest

import domainwright as dw
from domainwright.studies.data import prepare
from domainwright.studies.inflation import FEWEST_ITEMS, inflation
from domainwright.studies.records import read_verdict
from domainwright.studies.study import read_study
from tests.studies import world
from tests.studies.test_by_task import item


def items(scores):
    return [item(f"r{n}", score) for n, score in enumerate(scores)]


def test_the_gain_there_less_the_gain_elsewhere():
    rng = np.random.default_rng(0)
    before, after = rng.random(60), rng.random(60)
    after[:20] = 1.0
    away = {f"r{n}" for n in range(20)}
    (found,) = inflation({"zero_shot": items(before), "lora": items(after)}, "zero_shot", away)
    assert (found.strategy, found.given_away) == ("lora", 20)
    assert found.score.mean == pytest.approx(after.mean())
    assert found.clean.mean == pytest.approx(after[20:].mean())
    gain = after - before
    assert found.memory.mean == pytest.approx(gain[:20].mean() - gain[20:].mean())
    spread = np.sqrt(gain[:20].var() / 20 + gain[20:].var() / 40)
    assert found.memory.high - found.memory.low == pytest.approx(2 * 1.96 * spread, rel=0.05)
    assert found.memory.decided


@pytest.mark.parametrize("away", [0, FEWEST_ITEMS - 1, 60, 60 - FEWEST_ITEMS + 1])
def test_nothing_is_said_of_too_few(away):
    ids = {f"r{n}" for n in range(away)}
    both = {"zero_shot": items(np.zeros(60)), "lora": items(np.ones(60))}
    assert inflation(both, "zero_shot", ids) == []
    assert inflation({"lora": items(np.ones(60))}, "zero_shot", {"r1"}) == []


def leaky(tmp_path, base, leaks):
    """A study whose training rows hold half of its test rows."""
    rows = world.questions(world.PLANTS)
    test = [{**row, "id": f"t{n}", "group": f"t{n}"} for n, row in enumerate(rows[:16])]
    world.write_lines(tmp_path / "test.jsonl", test)
    rows = rows[8:]
    data = {"leaks": leaks, "test": str(tmp_path / "test.jsonl"), "development_share": 0.3}
    evaluate = {"items": 16, "new_tokens": 4}
    return world.study_file(tmp_path, base, rows=rows, data=data, evaluate=evaluate)


def test_leaks_are_dropped_or_kept(tmp_path, base):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    dropped = prepare(read_study(leaky(tmp_path / "a", base, "drop")), tmp_path / "x")
    kept = prepare(read_study(leaky(tmp_path / "b", base, "keep")), tmp_path / "y")
    assert dropped.given_away == frozenset() and dropped.leaks == kept.leaks
    assert kept.given_away <= {f"t{n}" for n in range(8, 16)} and len(kept.given_away) > 4
    assert len(kept.split.train) > len(dropped.split.train)
    reasons = {entry.reason for entry in kept.set_aside}
    assert reasons <= {"leaks_into_test"}, "development rows that give test rows away still go"


def test_a_study_that_keeps_leaks_says_what_they_do(quick, tmp_path, base):
    verdict = dw.decide(leaky(tmp_path, base, "keep"), tmp_path / "run")
    (one,) = [x for x in verdict.inflation if x.strategy == "lora"]
    assert one.given_away >= FEWEST_ITEMS
    assert read_verdict(tmp_path / "run" / "verdict.json").inflation == verdict.inflation
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Test rows that training rows give away" in page
