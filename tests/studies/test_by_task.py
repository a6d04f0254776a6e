"""Several tasks in one study: their scores, and what each does for the others."""

import numpy as np
import pytest

import domainwright as dw
from domainwright.core.errors import RunFailed
from domainwright.core.records import Text
from domainwright.evaluate.records import Item, Mark
from domainwright.studies.by_task import by_task
from domainwright.studies.records import read_verdict
from domainwright.studies.task_records import Effect, Transfer
from domainwright.studies.transfer import advice, transfer
from tests.studies import world
from tests.studies.verdicts import interval

TASKS = {f"r{n}": "ab"[n % 2] for n in range(40)}
GROUPS = {row: row for row in TASKS}


def rows():
    return [Text(id=i, group=i, file="f", line=1, text="x") for i in TASKS]


def item(row, score):
    return Item(
        id=row,
        group=row,
        question="",
        reference="",
        reply="",
        mark=Mark(score, True),
        metrics={},
        tokens_in=1,
        tokens_out=1,
        seconds=0.0,
    )


def test_every_strategy_is_scored_on_every_task():
    rng = np.random.default_rng(0)
    marks = {"zero_shot": rng.random(40), "lora": rng.random(40)}
    items = {s: [item(row, m) for row, m in zip(TASKS, x, strict=True)] for s, x in marks.items()}
    found = {(x.strategy, x.task): x for x in by_task(items, TASKS)}
    assert set(found) == {(s, t) for s in items for t in "ab"}
    one = found["lora", "b"]
    assert one.items == 20 and one.score.mean == pytest.approx(marks["lora"][1::2].mean())
    gap = marks["lora"][1::2] - marks["zero_shot"][1::2]
    assert one.difference.mean == pytest.approx(gap.mean())
    assert found["zero_shot", "a"].difference is None
    assert by_task(items, dict.fromkeys(TASKS, "a")) == []
    few = {row: "a" if n > 2 else "b" for n, row in enumerate(TASKS)}
    assert {x.task for x in by_task(items, few)} == {"a"}


def test_the_matrix_is_the_loss_without_less_the_loss_with():
    """Without a, b is worse by 0.5 and a by 1; without b nothing changes for a."""
    asked = []

    def losses_of(some, steps, without):
        asked.append((len(some), steps, without))
        more = {None: (0.0, 0.0), "a": (1.0, 0.5), "b": (0.0, 2.0)}[without]
        return [(f"{row}#0", 10.0 + 4 * more["ab".index(task)], 4) for row, task in TASKS.items()]

    found = transfer("lora", rows(), TASKS, 9, losses_of, GROUPS)
    assert asked == [(40, 9, None), (20, 4, "a"), (20, 4, "b")]
    assert {(e.task, e.on): e.gain.mean for e in found.effects} == pytest.approx(
        {("a", "a"): 1.0, ("a", "b"): 0.5, ("b", "a"): 0.0, ("b", "b"): 2.0}
    )
    (told,) = advice(found)
    assert told == (
        "Learning a too helps b: it takes 0.500 [0.500, 0.500] nats per token off its loss (lora)."
    )
    assert transfer("lora", rows(), dict.fromkeys(TASKS, "a"), 9, losses_of, GROUPS) is None


def test_harm_and_a_run_that_fails_are_told():
    hurts = Effect(task="a", on="b", gain=interval(-0.2, 0.1))
    (told,) = advice(Transfer(method="lora", effects=[hurts]))
    assert "hurts b: it puts 0.200 [0.100, 0.300] nats per token on its loss" in told
    unsure = Effect(task="a", on="b", gain=interval(-0.2, 0.3))
    assert "No task helps or hurts" in advice(Transfer(method="lora", effects=[unsure]))[0]

    def losses_of(some, steps, without):
        if without == "a":
            raise RunFailed("The run diverged.", "lower the rate.")
        return [(row, 10.0, 4) for row in TASKS]

    found = transfer("lora", rows(), TASKS, 9, losses_of, GROUPS)
    assert set(found.failed) == {"a"} and {e.task for e in found.effects} == {"b"}
    assert "What a does for the others is not known: without it, The run diverged." in advice(found)


@pytest.mark.usefixtures("quick")
def test_a_study_of_two_tasks(tmp_path, base):
    plants = [f"{name}{end}" for end in ("", "wort", "leaf") for name in world.PLANTS]
    every = world.questions(plants)
    data = {
        "train": [
            {"path": "train.jsonl", "task": "first"},
            {"path": "more.jsonl", "task": "other"},
        ],
        "development_share": 0.3,
    }
    study = world.study_file(
        tmp_path,
        base,
        every[::2],
        data=data,
        strategies=["zero_shot", "lora"],
        evaluate={"transfer": True, "items": 60},
        train={"tasks": {"weighting": "documents"}},
    )
    world.write_lines(tmp_path / "more.jsonl", every[1::2])
    verdict = dw.decide(study, tmp_path / "run").verdict
    assert {(x.strategy, x.task) for x in verdict.tasks} == {
        (s, t) for s in ("zero_shot", "lora") for t in ("first", "other")
    }
    assert sum(x.items for x in verdict.tasks) == 2 * verdict.data.tested
    assert {(e.task, e.on) for e in verdict.transfer.effects} == {
        (a, b) for a in ("first", "other") for b in ("first", "other")
    }
    assert read_verdict(tmp_path / "run" / "verdict.json").transfer == verdict.transfer
    shown = (tmp_path / "run" / "report.html").read_text()
    assert "Task by task" in shown and "takes off first" in shown
    runs = list((tmp_path / "run" / "trials" / "lora").glob("without-*/metrics.jsonl"))
    assert len(runs) == 2
