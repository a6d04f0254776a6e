"""`dw evaluate --task`: lm-eval's tasks from the command line and from Python."""

import json
import re
from types import SimpleNamespace

import pytest

import domainwright as dw_python
from domainwright.core.errors import ConfigError
from domainwright.evaluate import lm_eval_tasks
from domainwright.evaluate.lm_eval_tasks import load_tasks
from tests.lm_eval_here import TASKS, data_cache, lm_eval_here  # noqa: F401
from tests.studies import world

pytestmark = pytest.mark.usefixtures("lm_eval_here", "quick")
HERE = ("--include", TASKS)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(lm_eval_tasks, "RESAMPLES", 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("run")
    study = world.study_file(folder, base, strategies=["zero_shot"], train={"learning_rate": 0.1})
    dw_python.train_method(study, "lora", folder / "lora")
    return folder / "lora"


def test_metrics_are_printed_as_lm_eval_names_them(dw, base):
    said = dw("evaluate", base, "--task", "dw_choice", "--task", "dw_text", *HERE, "-n", "8")
    assert said.code == 0
    lines = said.out.splitlines()
    (first, second) = (
        load_tasks(["dw_choice", "dw_text"], include=TASKS, limit=8)
        .ask(dw_python.load_base(str(base)))
        .results
    )
    acc = first.metrics[0]
    assert lines[0] == "dw_choice, 2-shot, 8 items"
    assert lines[1] == f"  acc        {acc.value:.4f} ± {acc.error:.4f}"
    assert lines[5] == "dw_text, 0-shot, 6 items"
    assert lines[-1] == f"  bits_per_byte    {second.metrics[2].value:.4f}  lower is better"
    # Only our own lines: lm-eval's bars and prints stay away.
    assert all(re.match(r"(read tasks|evaluate)  \d+/\d+", x) for x in said.err.splitlines())


def test_json_holds_every_item(dw, base, run):
    how = ("--task", "dw_choice", *HERE, "--limit", "6", "--shots", "1", "--json")
    said = dw("evaluate", base, *how)
    found = json.loads(said.out)
    assert (found["strategy"], found["notes"]) == ("base", [])
    (result,) = found["results"]
    assert (result["name"], result["shots"], result["deciding"]) == ("dw_choice", 1, "acc_norm")
    assert [x["id"] for x in result["items"]] == [f"dw_choice#{n}" for n in range(6)]
    means = {m["name"]: m["value"] for m in result["metrics"]}
    for name in ("acc", "acc_norm"):
        assert sum(x["metrics"][name] for x in result["items"]) / 6 == pytest.approx(means[name])
    same = dw_python.evaluate_tasks(base, "dw_choice", include=TASKS, limit=6, shots=1)
    assert {m.name: m.value for m in same.results[0].metrics} == means
    tuned = json.loads(dw("evaluate", run, *how).out)
    assert tuned["strategy"] == "adapter"
    assert [x["question"] for x in tuned["results"][0]["items"]] == [
        x["question"] for x in result["items"]
    ]


def test_a_runs_adapter_acts(dw, base, run):
    bits = [
        dw_python.evaluate_tasks(model, ["dw_text"], include=TASKS).results[0].metrics[-1].value
        for model in (base, run)
    ]
    assert bits[0] != bits[1]


def test_a_gate_is_asked_about_each_prompt(run, monkeypatch):
    def lets_through(text):
        asked.append(text)
        return "thins" in text.rpartition("Question:")[2]

    asked = []
    opened = dw_python.load_run(run)
    opened.gate = SimpleNamespace(passes=lets_through)
    monkeypatch.setattr("domainwright.studies.lm_eval_tasks.run_of", lambda model: opened)
    names = ["dw_choice", "dw_text", "dw_written"]
    gated = dw_python.evaluate_tasks(run, names, include=TASKS)
    tasks = load_tasks(names, include=TASKS)
    # The same base: another type of numbers would round otherwise.
    plain = tasks.ask(opened.base).results
    with opened.adapter.attached():
        tuned = tasks.ask(opened.base).results
    sides = {True: 0, False: 0}
    for own, on, off in zip(gated.results, tuned, plain, strict=True):
        for item, with_adapter, without in zip(own.items, on.items, off.items, strict=True):
            passed = "thins" in item.question.rpartition("Question:")[2]
            other = with_adapter if passed else without
            assert item.reply == other.reply
            assert item.metrics == pytest.approx(other.metrics, rel=1e-4)
            sides[passed] += with_adapter.metrics != pytest.approx(without.metrics, rel=1e-3)
    assert min(sides.values()) > 0, "the adapter changed something on both sides"
    assert len(asked) == len(set(asked)) == 24 + 6 + 10
    through = sum("thins" in x.rpartition("Question:")[2] for x in asked)
    assert gated.notes == (f"the gate let the adapter answer {through} of 40 prompts",)


def test_a_prompting_strategy_has_no_part_in_it(dw, base, tmp_path):
    study = world.study_file(tmp_path, base, strategies=["zero_shot"])
    dw_python.decide(study, tmp_path / "run")
    said = dw("evaluate", tmp_path / "run", "--task", "dw_last_word", *HERE, "--shots", "2")
    assert said.code == 0
    assert said.out.splitlines()[-2:] == [
        "note: dw_last_word is asked without examples: its own file says so",
        "note: of zero_shot only the weights are measured: a task brings its own prompt",
    ]


def test_what_does_not_go_together_is_refused(dw, base, tmp_path):
    file = world.write_lines(tmp_path / "rows.jsonl", world.questions())
    for wrong in (
        (),
        ("--data", file, "--task", "dw_choice"),
        ("--data", file, "--shots", "1"),
        ("--data", file, "--chat"),
        ("--data", file, *HERE),
        ("--task", "dw_choice", *HERE, "--shots", "-1"),
        ("--task", "dw_choice", *HERE, "-n", "0"),
    ):
        said = dw("evaluate", base, *wrong)
        assert said.code == 2 and "Traceback" not in said.err, wrong
    said = dw("evaluate", base, "--task", "dw_choice", "--include", tmp_path / "none")
    assert said.code == 3 and "no folder" in said.err
    for how in ({"limit": 0}, {"shots": -1}):
        with pytest.raises(ConfigError, match="give a whole number"):
            dw_python.evaluate_tasks(base, "dw_choice", include=TASKS, **how)
    with pytest.raises(ConfigError, match="No task"):
        dw_python.evaluate_tasks(base, [])


def test_lm_eval_is_asked_for_where_it_is_missing(dw, base, monkeypatch):
    monkeypatch.setattr(lm_eval_tasks, "find_spec", lambda name: None)
    said = dw("evaluate", base, "--task", "arc_easy")
    assert said.code == 4 and "pip install 'domainwright[lm-eval]'" in said.err
