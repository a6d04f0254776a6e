"""Tasks one after the other: the sums by hand, and a study that learns two in turn."""

import pytest

from domainwright.core.errors import ConfigError, RunFailed
from domainwright.core.records import Text
from domainwright.studies.api import decide
from domainwright.studies.records import read_verdict
from domainwright.studies.sequence import advice, checked, in_sequence
from domainwright.studies.task_records import InSequence
from tests.studies import world

TASKS = {f"{task}{n}": task for task in "abc" for n in range(6)}
GROUPS = {row: row for row in TASKS}
TABLE = [[3.0, 3.0, 3.0], [1.0, 2.5, 3.5], [1.5, 1.0, 3.2], [2.0, 1.25, 1.0]]
"""Loss of a, b and c before the first stage and after each."""


def rows(**sizes):
    return [
        Text(id=f"{task}{n}", group=f"{task}{n}", file="f", line=n, text="x")
        for task, count in sizes.items()
        for n in range(count)
    ]


def stage(told, fails=None):
    def run(part, number, steps):
        told.append((sorted({TASKS[r.id] for r in part}), number, steps))
        if number == fails:
            raise RunFailed("it diverged.", "lower the rate.")
        return [(r, 2 * TABLE[number]["abc".index(t)], 2) for r, t in TASKS.items()], 0.1 * number

    return run


def test_the_sums_by_hand():
    told = []
    found = in_sequence("lora", "abc", rows(a=6, b=2, c=4), TASKS, 24, stage(told), GROUPS)
    assert told == [([], 0, 0), (["a"], 1, 12), (["b"], 2, 4), (["c"], 3, 8)]
    assert [pytest.approx(line) for line in TABLE] == found.losses and found.steps == [12, 4, 8]
    assert found.moved == pytest.approx([0.0, 0.1, 0.2, 0.3])
    # ((1 - 2) + (1 - 1.25)) / 2 and ((3 - 2.5) + (3 - 3.2)) / 2
    assert found.backward.mean == pytest.approx(-0.625)
    assert found.forward.mean == pytest.approx(0.15)
    assert found.backward.high < 0 and found.backward.low < found.backward.mean
    (lost,) = [x for x in advice(found) if "lose" in x]
    assert "earlier tasks lose 0.6" in lost and "(a, b, c; lora)" in lost


def test_a_stage_that_fails_ends_the_sequence():
    found = in_sequence("lora", "abc", rows(a=6, b=2, c=4), TASKS, 24, stage([], 2), GROUPS)
    assert found.losses == TABLE[:2] and found.backward is None and found.forward is None
    assert advice(found) == [
        "The sequence of tasks (lora) was not finished: in stage 2, b: it diverged."
    ]


def test_too_few_rows_to_judge_a_task():
    few = {row: task for row, task in TASKS.items() if row not in ("c0", "c1", "c2")}
    told = []
    found = in_sequence("lora", "abc", rows(a=6, b=2), few, 24, stage(told), GROUPS)
    assert len(told) == 1 and not found.losses
    assert advice(found)[0].endswith("fewer than 4 development rows of c were read.")


def test_the_order_names_every_task_once():
    assert checked(["b", "a"], ["a", "b", "a"]) == ("b", "a")
    for order in (["a"], ["a", "b", "b"], ["a", "c"]):
        with pytest.raises(ConfigError, match=r"tasks are a, b\.\n  fix: name every task once"):
            checked(order, ["a", "b"])
    with pytest.raises(ConfigError, match="two or more"):
        checked(["a"], ["a"])


@pytest.mark.usefixtures("quick")
def test_a_study_learns_its_tasks_in_turn(base, tmp_path):
    plants = [f"{name}{end}" for end in ("", "wort", "leaf") for name in world.PLANTS]
    every = world.questions(plants)
    world.write_lines(tmp_path / "more.jsonl", every[1::2])
    study = world.study_file(
        tmp_path,
        base,
        every[::2],
        data={
            "train": [{"path": "train.jsonl", "task": "first"}, "more.jsonl"],
            "development_share": 0.3,
        },
        strategies=["lora"],
        evaluate={"sequence": ["more", "first"]},
    )
    verdict = decide(study, tmp_path / "run").verdict
    found = verdict.in_sequence
    assert isinstance(found, InSequence) and found.tasks == ["more", "first"] and not found.failed
    assert len(found.losses) == 3 and {len(line) for line in found.losses} == {2}
    assert found.losses[1][0] < found.losses[0][0], "a task is learned in its own stage"
    assert found.losses[2][1] < found.losses[1][1]
    assert found.moved[0] == 0.0 and min(found.moved[1:]) > 0
    assert any("one after the other" in x for x in verdict.recommendation.reasons)
    assert read_verdict(tmp_path / "run" / "verdict.json").in_sequence == found
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Learned one after the other" in report
    places = sorted(p.name for p in (tmp_path / "run/trials/lora").glob("stage-*"))
    assert places == ["stage-1", "stage-2"]
    with pytest.raises(ConfigError, match=r"evaluate\.sequence is more, frist, and the"):
        decide(study, tmp_path / "bad", overrides=["evaluate.sequence=[more, frist]"])
