"""Several training seeds: means as scores, and their luck within the interval."""

import numpy as np
import pytest

from domainwright.core.errors import ConfigError
from domainwright.evaluate.records import Item, Mark
from domainwright.maths.bootstrap import interval
from domainwright.studies.api import decide
from domainwright.studies.judge import compare, pooled, summarise
from domainwright.studies.study import read_study
from tests.studies import world

pytestmark = pytest.mark.usefixtures("quick")


def items(values, seconds=1.0):
    return [
        Item(id=f"i{n}", group=f"g{n}", question="q", reference="r", reply="x",
             mark=Mark(v, True), metrics={"token_f1": v}, loss=v, loss_tokens=2,
             tokens_in=10, tokens_out=3, seconds=seconds)
        for n, v in enumerate(values)
    ]  # fmt: skip


def test_one_seed_is_what_it_was():
    values = np.random.default_rng(0).random(30)
    assert interval(values) == interval(values[None])
    runs = items(list(values))
    assert pooled([runs]) == runs


def test_the_interval_holds_the_spread_of_the_seeds():
    """Items all alike and seeds that differ: the interval is that of the seeds alone."""
    table = np.repeat([[0.2], [0.5], [0.8]], 50, axis=1)
    found = interval(table)
    assert found.mean == pytest.approx(0.5) and (found.low, found.high) == (
        pytest.approx(0.2), pytest.approx(0.8)
    )  # fmt: skip
    # By counting: the mean of three draws is 0.2 in one of 27 cases, above a twentieth of 2.5 %.
    alike = np.random.default_rng(1).random((1, 40)).repeat(3, axis=0)
    same, one = interval(alike), interval(alike[0])
    assert same.mean == one.mean
    assert (same.low, same.high) == (
        pytest.approx(one.low, abs=0.02), pytest.approx(one.high, abs=0.02)
    )  # fmt: skip


def test_pooled_items_are_means_and_keep_every_mark():
    runs = [items([1.0, 0.0]), items([0.0, 0.0]), items([1.0, 1.0], seconds=4.0)]
    first, second = pooled(runs)
    assert first.marks == (1.0, 0.0, 1.0) and first.mark.correct == pytest.approx(2 / 3)
    assert second.metrics == {"token_f1": pytest.approx(1 / 3)}
    assert first.seconds == pytest.approx(2.0) and first.reply == "x"
    assert summarise([first, second])["score"].mean == pytest.approx(0.5)


def test_a_lucky_seed_no_longer_decides():
    """One seed of three is better than the base; taken alone its interval leaves out 0."""
    rng = np.random.default_rng(3)
    base = rng.random(60) * 0.2
    lucky, others = base + 0.1, base - 0.03
    reference = items(list(base))
    alone = compare({"zero_shot": reference, "lora": items(list(lucky))})["lora"]
    three = pooled([items(list(lucky)), items(list(others)), items(list(others))])
    together = compare({"zero_shot": reference, "lora": three})["lora"]
    assert alone.low > 0
    assert together.low < 0 < together.high and together.mean == pytest.approx(0.04 / 3)


def test_a_study_with_two_seeds(tmp_path, base):
    study = world.study_file(tmp_path, base, seeds=2, strategies=["lora", "lora+few_shot"])
    decided = decide(study, tmp_path / "run")
    trials = tmp_path / "run" / "trials"
    first, second = (
        (trials / place / "adapter_model.safetensors").read_bytes()
        for place in ("lora/adapter", "lora/seed-1/adapter")
    )
    assert first != second
    for name in ("lora", "lora+few_shot"):
        runs = [
            world.read_lines(trials / name / part / "items.jsonl")
            for part in ("scorecard", "seed-1/scorecard")
        ]
        marks = [[i["mark"][0] for i in run] for run in runs]
        result = next(r for r in decided.verdict.strategies if r.name == name)
        assert result.score.mean == pytest.approx(np.mean(marks))
    again = decide(study, tmp_path / "again")
    assert [r.score for r in again.verdict.strategies] == [
        r.score for r in decided.verdict.strategies
    ]


def test_no_seed_is_refused(tmp_path, base):
    with pytest.raises(ConfigError, match="seeds is 0"):
        read_study(world.study_file(tmp_path, base, seeds=0))
