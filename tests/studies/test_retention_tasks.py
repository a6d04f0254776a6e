"""Forgetting on tasks of lm-eval, in a whole study."""

import json

import numpy as np
import pytest
import yaml

import domainwright as dw
from domainwright.core.errors import ConfigError, DataError
from domainwright.evaluate.lm_eval_tasks import Tasks, load_tasks
from domainwright.studies.records import read_verdict
from domainwright.studies.study import read_study
from domainwright.studies.table import render_table, verdict_rows
from tests.lm_eval_here import TASKS, data_cache, lm_eval_here  # noqa: F401
from tests.studies import world
from tests.studies.test_refine import texts

pytestmark = pytest.mark.usefixtures("lm_eval_here", "quick")
ASKED = [
    {"task": "dw_choice", "include": str(TASKS), "limit": 9},
    {"task": "dw_text", "include": str(TASKS), "limit": None},
]


@pytest.fixture
def study(tmp_path, base):
    return world.study_file(
        tmp_path, base, strategies=["zero_shot", "lora", "few_shot"], evaluate={"items": 4}
    )


def asked(study, tasks):
    settings = json.dumps(tasks)
    return [f"evaluate.retention_tasks={settings}"]


def test_a_study_says_what_was_forgotten_on_each_task(study, tmp_path, base):
    decided = dw.decide(study, tmp_path / "run", overrides=asked(study, ASKED))
    by = {r.name: r for r in decided.verdict.strategies}
    kept = by["lora"].retention.tasks
    assert [(t.name, t.metric, t.higher_is_better, t.items) for t in kept] == [
        ("dw_choice", "acc_norm", True, 9),
        ("dw_text", "bits_per_byte", False, 6),
    ]
    before, after = (_oracle(base, run) for run in (None, decided.folder))
    for task, old, new in zip(kept, before, after, strict=True):
        assert task.mean == pytest.approx(np.mean(new), abs=1e-5)
        assert task.change.mean == pytest.approx(np.mean(new) - np.mean(old), abs=1e-5)
        assert task.change.low <= task.change.mean <= task.change.high
    assert kept[1].change.mean != 0 and kept[1].change.low < kept[1].change.high
    for name in ("zero_shot", "few_shot"):
        same = by[name].retention.tasks
        assert [(t.change.mean, t.change.low, t.change.high) for t in same] == [(0, 0, 0)] * 2
        assert [t.mean for t in same] == pytest.approx([np.mean(x) for x in before], abs=1e-5)
    page = (decided.folder / "report.html").read_text()
    assert "Forgetting on tasks of lm-eval" in page and "bits_<wbr>per_<wbr>byte" in page
    assert "(lower is better)" in page
    card = (decided.folder / "trials/lora/adapter/README.md").read_text()
    assert "change of bits_per_byte on dw_text, lower is better" in card


def _oracle(base, folder):
    """The metric of each item, asked without a study."""
    model = dw.load_run(folder, "lora") if folder else None
    found = []
    for task in ASKED:
        tasks = load_tasks([task["task"]], include=task["include"], limit=task["limit"])
        if model:
            with model.adapter.attached():
                (result,) = tasks.ask(model.base, errors=False).results
        else:
            (result,) = tasks.ask(dw.load_base(str(base), dtype="float32")).results
        found.append([x.metrics[result.deciding] for x in result.items])
    return found


def test_tasks_are_asked_once_a_model_and_again_when_they_change(study, tmp_path, monkeypatch):
    calls = []
    ask = Tasks.ask

    def counted(self, *values, **names):
        calls.append(names["stage"])
        return ask(self, *values, **names)

    monkeypatch.setattr(Tasks, "ask", counted)
    folder = tmp_path / "run"
    more = ['strategies=["zero_shot", "lora", "lora+few_shot"]']
    first = dw.decide(study, folder, overrides=[*asked(study, ASKED[:1]), *more])
    assert calls == ["retention base: tasks", "retention lora: tasks"]
    (folder / "verdict.json").unlink()
    again = dw.decide(study, folder, overrides=[*asked(study, ASKED[:1]), *more], resume=True)
    assert len(calls) == 2
    tasks = [[r.retention.tasks for r in d.verdict.strategies] for d in (first, again)]
    assert tasks[0] == tasks[1] and len(tasks[0]) == 3


def as_the_base_answers(folder, base):
    """A task on which the base is always right: what it picks is what counts as right."""
    colours = list(world.COLOURS)
    rows = [
        {"question": f"Which colour is {plant}?", "choices": colours, "answer": 0}
        for plant in world.PLANTS
    ]

    def written(name):
        # A folder each: a process reads the index of one once.
        place = folder / name
        place.mkdir(parents=True)
        data = str(world.write_lines(place / "rows.jsonl", rows))
        task = {
            **yaml.safe_load((TASKS / "dw_last_word.yaml").read_text()),
            "task": name,
            "dataset_kwargs": {"data_files": {"test": data}},
            "output_type": "multiple_choice",
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        (place / "task.yaml").write_text(yaml.safe_dump(task))
        return str(place)

    model = dw.load_base(str(base), dtype="float32")
    (found,) = load_tasks(["dw_any"], include=written("dw_any")).ask(model).results
    for row, item in zip(rows, found.items, strict=True):
        row["answer"] = colours.index(item.reply)
    return {"task": "dw_own", "include": written("dw_own"), "limit": None}


def test_a_strategy_that_loses_more_than_it_may_is_refused(study, tmp_path, base):
    own = {**as_the_base_answers(tmp_path / "mine", base), "max_drop": 0.02}
    tasks = [own, {**ASKED[1], "max_drop": 9.0}]
    wild = ["train.learning_rate=3.0", "train.max_forgetting=99.0", "strategies=[zero_shot, lora]"]
    decided = dw.decide(study, tmp_path / "run", overrides=[*asked(study, tasks), *wild])
    verdict = decided.verdict
    lora = next(r for r in verdict.strategies if r.name == "lora")
    (task, free), lost = lora.retention.tasks, -lora.retention.tasks[0].change.mean
    assert task.mean == 1 - lost and lost > 0.02 and (task.max_drop, free.max_drop) == (0.02, 9.0)
    said = f"loses {lost:.3g} on dw_own, and the limit is 0.02"
    assert [r for r in verdict.recommendation.reasons if "refused" in r] == [
        f"lora is refused: it {said}."
    ]
    assert verdict.recommendation.strategy != "lora" and verdict.costs.first != "lora"
    page = (decided.folder / "report.html").read_text()
    assert "over limit 0.02 on dw_<wbr>own" in page and "may lose 0.02" in page
    assert f"! lora {said}" in str(render_table(verdict).caption)
    assert {row[0]: row[3][-1:] for row in verdict_rows(verdict)[1]}["lora"] == "!"
    assert said in (decided.folder / "trials/lora/adapter/README.md").read_text()
    assert read_verdict(decided.folder / "verdict.json").strategies == verdict.strategies


def test_a_challenger_is_held_to_the_tasks_too(tmp_path, base, monkeypatch):
    """What it gains on the study's own rows (test_refine.py) does not pay for what it loses."""
    own = {**as_the_base_answers(tmp_path / "mine", base), "max_drop": 0.0}
    changes = {"data": {"development_share": 0.4}, "train": {"steps": 2}}
    study = world.study_file(tmp_path, base, rows=texts(), **changes)
    run = dw.decide(study, tmp_path / "run", overrides=asked(study, [own])).folder
    calls = []
    ask = Tasks.ask
    monkeypatch.setattr(Tasks, "ask", lambda *a, **k: calls.append(k["stage"]) or ask(*a, **k))
    found = dw.refine(run, strategy="lora", steps=20)
    assert calls == ["retention challenger: tasks"]
    (task,) = found.decision.against_base.tasks
    assert task.lost > 0 and not found.decision.accepted and found.decision.difference.low > 0
    said = f"Against the base the challenger loses {task.lost:.3g} on dw_own, and the limit is 0.0."
    assert said in found.decision.reasons


def test_no_task_is_no_change(study, tmp_path):
    decided = dw.decide(study, tmp_path / "run")
    assert all(r.retention.tasks == [] for r in decided.verdict.strategies)
    assert not list(decided.folder.rglob("retention_tasks"))
    assert "tasks of lm-eval" not in (decided.folder / "report.html").read_text()


def test_a_plan_counts_the_tasks(study):
    plain = dw.plan(study)
    more = dw.plan(study, overrides=asked(study, [{**ASKED[1], "limit": None}] + ASKED[:1]))
    assert more.minutes > 0 and plain.minutes > 0
    from domainwright.studies._retention_tasks import retention_tasks

    base = dw.load_base(read_study(study).base, dtype="float32")
    counted = [
        retention_tasks(read_study(study, asked(study, tasks)), base, lambda step: None)
        for tasks in ([], ASKED[:1], ASKED)
    ]
    tokens = [x.tokens for x in counted]
    assert tokens[0] == 0 < 200 < tokens[1] < tokens[2] and len({x.hash for x in counted}) == 3
    text = (TASKS / "text.jsonl").read_text().splitlines()
    texts = sum(len(base.template.tokens(json.loads(line)["text"])) for line in text)
    assert tokens[2] == tokens[1] + texts


def test_the_settings(study, tmp_path):
    found = read_study(study, ["evaluate.retention_tasks=[arc_easy, {task: own, include: mine}]"])
    name, own = found.evaluate.retention_tasks
    assert name == "arc_easy" and own.limit == 100 and own.shots is None
    assert own.include == str(tmp_path / "mine")
    assert read_study(study, ["evaluate.retention_tasks=mmlu"]).evaluate.retention_tasks == (
        "mmlu",
    )


@pytest.mark.parametrize(
    ("tasks", "error", "words"),
    [
        ([{"task": "a", "shots": -1}], ConfigError, "shots of -1"),
        ([{"task": "a", "limit": 0}], ConfigError, "limit of 0"),
        ([{"task": "a", "max_drop": -0.1}], ConfigError, "max_drop of -0.1"),
        ([{"task": "a", "shot": 1}], ConfigError, "'shot'"),
        ([ASKED[0], {**ASKED[0], "limit": 3}], DataError, "twice: dw_choice"),
    ],
)
def test_wrong_settings_are_refused(study, tmp_path, tasks, error, words):
    with pytest.raises(error, match=words):
        dw.decide(study, tmp_path / "run", overrides=asked(study, tasks))


def test_a_task_without_a_metric_of_single_items_is_refused(study, tmp_path):
    text = (TASKS / "dw_choice.yaml").read_text()
    lines = [x for x in text.splitlines() if "acc" not in x]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/own.yaml").write_text("\n".join(lines))
    with pytest.raises(DataError, match="dw_choice has no metric of single items"):
        dw.decide(
            study,
            tmp_path / "run",
            overrides=asked(study, [{"task": "dw_choice", "include": "mine", "limit": 3}]),
        )
