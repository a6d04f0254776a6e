"""METHOD+gated in a study: answers that others gave, forgetting that is theirs where it passes."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import ConfigError
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.retained import AskedTask, Retained, Suite, shipped_suite
from domainwright.studies import _exam, _training
from domainwright.studies._gated import GatedTrials, Route, mixture, retained_mixture, told
from domainwright.studies.api import decide, load_run, plan
from domainwright.studies.records import read_verdict
from domainwright.studies.report import render
from domainwright.studies.score import score_file
from domainwright.studies.study import read_study
from domainwright.studies.trace import trace
from tests.studies import verdicts, world
from tests.studies.words import stand_in

SHARE = 0.6
"""Of the development rows: two of three are asked as the training rows are."""


def rows():
    """Every third question has no word in common with another."""
    found = world.questions()
    for place, row in enumerate(found):
        if place % 3 == 2:
            row["question"] = f"Ab{place} cd{place} ef{place} gh{place}?"
    return found


NEAR = [
    {"id": "near-text", "text": "What colour is basil?"},
    {"id": "near-text-2", "text": "Where does basil grow?"},
]
NEAR_CHOICE = {
    "id": "near-choice",
    "question": "What colour is mint?",
    "choices": ["mint is green", "nobody knows", "a house"],
    "answer": 0,
}


def study_in(folder, base, strategies, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    world.write_lines(folder / "documents.jsonl", world.documents())
    world.write_lines(folder / "texts.jsonl", NEAR)
    world.write_lines(folder / "choices.jsonl", [NEAR_CHOICE])
    given = {
        "data": {"documents": "documents.jsonl"},
        "evaluate": {"items": 9, "retention": ["texts.jsonl", "choices.jsonl"]},
        "gate": {"share": SHARE},
        "train": {"learning_rate": 0.1},
    }
    return world.study_file(
        folder, base, rows(), **world.merged(given, {"strategies": strategies, **changes})
    )


def items(folder, strategy, part="scorecard"):
    return world.read_lines(folder / "trials" / strategy / part / "items.jsonl")


@pytest.fixture(scope="module")
def patched():
    """The gate's encoder, and a suite of six texts and eight choices."""
    with pytest.MonkeyPatch.context() as patch:
        world.small_suite(patch)
        yield stand_in(patch)


@pytest.fixture(scope="module")
def run(tmp_path_factory, base, patched):
    """(a study with the gated strategy named first, its steps, how often it trained)."""
    folder = tmp_path_factory.mktemp("gated")
    study = study_in(folder, base, ["lora+gated", "lora", "lora+rag+gated", "rag"])
    steps, trained = [], []
    tune = _training.tune
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_training, "tune", lambda *a, **k: (trained.append(a), tune(*a, **k))[1])
        decided = decide(study, folder / "run", listen=steps.append)
    return decided, steps, len(trained)


def by_hand(gate, question):
    """Four words, of which three in common with five training questions: 0.75."""
    return question.startswith(("What colour is", "Where does")) and gate.threshold <= 0.75


def test_answers_are_those_of_the_adapter_or_bit_for_bit_the_base(run):
    decided, *_ = run
    gate = next(r.gate for r in decided.strategies if r.name == "lora+gated")
    assert gate.threshold == 0.75
    gated, lora, zero = (items(decided.folder, n) for n in ("lora+gated", "lora", "zero_shot"))
    kinds = Counter()
    for mine, tuned, base in zip(gated, lora, zero, strict=True):
        passed = by_hand(gate, mine["question"])
        kinds[passed] += 1
        theirs = tuned if passed else base
        assert mine.pop("seconds") > theirs.pop("seconds")
        assert mine == theirs
        assert tuned["loss"] != base["loss"]
    assert min(kinds[True], kinds[False]) >= 2
    assert (gate.tested, gate.tested_passed) == (9, kinds[True])


def test_with_retrieval_the_base_keeps_the_prompt_of_the_method(run):
    folder = run[0].folder
    both, base = items(folder, "lora+rag+gated"), items(folder, "rag")
    asked = {x["id"]: x for x in items(folder, "lora+rag+gated", "passed")}
    assert 0 < len(asked) < len(both)
    for mine, off in zip(both, base, strict=True):
        theirs = asked.get(mine["id"], off)
        assert mine["passages"] and mine["reply"] == theirs["reply"]
        assert mine["loss"] == theirs["loss"]
    assert not (folder / "trials/lora+rag+gated/to-base").exists()


def test_nothing_is_trained_or_asked_twice(run):
    decided, steps, trained = run
    assert trained == 1
    stages = {step.stage for step in steps}
    assert {"lora", "rag", "lora+rag+gated", "gate items", "gate general"} <= stages
    assert "lora+gated" not in stages
    assert not (decided.folder / "trials/lora+gated/passed").exists()
    assert sum(s == "retention lora: text" for s in stages) == 1
    assert [r.name for r in decided.strategies] == [
        "zero_shot", "lora", "rag", "lora+gated", "lora+rag+gated",
    ]  # fmt: skip


def test_what_is_kept_is_the_mixture_by_hand(run):
    folder = run[0].folder
    by_name = {r.name: r for r in run[0].strategies}
    gate = by_name["lora+gated"].gate
    nats, right, passed, alone = [], [], 0, []
    for name in ("texts", "choices"):
        pair = (
            world.read_lines(folder / "trials" / who / "retention" / f"{name}.jsonl")
            for who in ("lora", "base")
        )
        for tuned, base in zip(*pair, strict=True):
            on = tuned["id"].startswith("near")
            passed += on
            if name == "texts":
                change = (tuned["loss"] - base["loss"]) / tuned["loss_tokens"]
                alone.append(change)
                nats.append(change if on else 0.0)
            else:
                right.append((tuned["mark"][0] - base["mark"][0]) if on else 0.0)
    kept = by_name["lora+gated"].retention
    assert kept.nats_change.mean == pytest.approx(np.mean(nats), abs=1e-12)
    assert kept.accuracy_change.mean == pytest.approx(np.mean(right), abs=1e-12)
    assert gate.ungated_change.mean == pytest.approx(np.mean(alone), abs=1e-12)
    assert by_name["lora"].retention.nats_change == gate.ungated_change
    assert abs(np.mean(nats)) > 1e-6 and np.mean(nats) != pytest.approx(np.mean(alone))
    assert (gate.general, gate.general_passed) == (8 + 9, passed) and passed == 3


def test_with_no_false_positive_nothing_is_forgotten(tmp_path, base, patched):
    study = study_in(tmp_path, base, ["lora", "lora+gated"], evaluate={"retention": []})
    result = decide(study, tmp_path / "run").strategies[-1]
    assert result.gate.general_passed == 0
    assert result.retention.nats_change.mean == result.retention.accuracy_change.mean == 0
    assert result.gate.ungated_change.mean != 0


def test_the_verdict_says_what_the_gate_did(run):
    decided = run[0]
    said = [x for x in decided.recommendation.reasons if x.startswith("lora+gated: ")]
    gate = next(r.gate for r in decided.strategies if r.name == "lora+gated")
    (sentence,) = said
    assert f"answered {gate.tested_passed} of 9 test items" in sentence
    assert "3 of 17 general texts and questions reached the adapter by mistake (17.6 %)" in sentence
    assert f"without the gate {gate.ungated_change.mean:.3f}." in sentence
    again = read_verdict(decided.folder / "verdict.json")
    assert again.as_json() == json.loads(json.dumps(decided.verdict.as_json()))
    page = render(again)
    assert "3 of 17 general by mistake" in page and "without the gate" in page
    lora, gated = (next(r for r in again.strategies if r.name == n) for n in ("lora", "lora+gated"))
    assert gated.training == lora.training and gated.adapter == lora.adapter
    assert gated.kind == "combination" and gated.prepare_seconds > lora.prepare_seconds
    assert lora.gate is None
    sizes = again.costs.gigabytes
    stored = (decided.folder / "gate/gate.safetensors").stat().st_size
    assert sizes["lora+gated"] == pytest.approx(sizes["lora"] + stored / 1e9)


def test_the_scorecard_names_adapter_and_gate(run):
    folder = run[0].folder
    parents = read_manifest(folder / "trials/lora+gated/scorecard", "scorecard")["parents"]
    assert parents["gate"] == read_manifest(folder / "gate", "gate")["hash"]
    assert parents["adapter"] == read_manifest(folder / "trials/lora/adapter")["hash"]
    for part, own in (("passed", "lora"), ("to-base", "zero_shot")):
        assert parents[part] == read_manifest(folder / f"trials/{own}/scorecard")["hash"]
    cards = {x["name"]: x for x in trace(folder)["parents"]}
    assert "gate" in {
        Path(x["folder"]).name for x in cards["lora+gated"]["parents"] if "folder" in x
    }
    assert "gate" not in {x["name"] for x in cards["lora"]["parents"]}


def test_a_resumed_study_reads_gate_and_routes_back(tmp_path, base, patched):
    study = study_in(tmp_path, base, ["lora", "lora+gated"])
    first = decide(study, tmp_path / "run")
    before, read = items(first.folder, "lora+gated"), len(patched.read)
    for name in ("manifest.json", "trials/lora+gated/scorecard/manifest.json"):
        (first.folder / name).unlink()
    again = decide(study, tmp_path / "run", resume=True)
    assert len(patched.read) == read
    assert items(again.folder, "lora+gated") == before
    assert again.strategies == first.strategies


def test_a_gate_alone_asks_what_is_missing(tmp_path, base, patched, run):
    """Neither lora nor rag is in the study: each answers only the items that are its own."""
    study = study_in(tmp_path, base, ["lora+rag+gated"])
    decided = decide(study, tmp_path / "run")
    asked = {
        part: [x["id"] for x in items(decided.folder, "lora+rag+gated", part)]
        for part in ("passed", "to-base")
    }
    tested = [x["id"] for x in items(decided.folder, "zero_shot")]
    assert sorted(asked["passed"] + asked["to-base"]) == sorted(tested)
    assert min(map(len, asked.values())) >= 2
    off = {x["id"]: x for x in items(run[0].folder, "rag")}
    for mine in items(decided.folder, "lora+rag+gated", "to-base"):
        assert mine["reply"] == off[mine["id"]]["reply"]
        assert mine["loss"] == pytest.approx(off[mine["id"]]["loss"], rel=1e-4)


def test_seeds_stand_beside_the_one_base(tmp_path, base, patched):
    study = study_in(tmp_path, base, ["lora", "lora+gated"], seeds=2)
    decided = decide(study, tmp_path / "run")
    mine, plain = items(decided.folder, "lora+gated"), items(decided.folder, "zero_shot")
    gate = decided.strategies[-1].gate
    assert all(len(x["marks"]) == 2 for x in mine)
    for x, base_item in zip(mine, plain, strict=True):
        if not by_hand(gate, x["question"]):
            assert x["marks"] == [base_item["mark"][0]] * 2
    score = decided.strategies[-1].score.mean
    assert score == pytest.approx(np.mean([x["marks"] for x in mine]))


def item(name, mark, marks=()):
    return Item(
        id=name, group=name, question="", reference="", reply=name, mark=Mark(mark, True),
        marks=marks, seconds=1.0,
    )  # fmt: skip


def test_a_mixture_by_hand():
    def to(name, passed):
        return Route(id=name, nearness=0.0, passed=passed, seconds=0.25)

    routes = [to("a", True), to("b", False), to("c", True)]
    tuned = [item("a", 0.5, (0.0, 1.0)), None, item("c", 1.0, (1.0, 1.0))]
    got = mixture(routes, tuned, [None, item("b", 0.25), None])
    assert [x.id for x in got] == ["a", "b", "c"]
    assert [x.marks for x in got] == [(0.0, 1.0), (0.25, 0.25), (1.0, 1.0)]
    assert [x.seconds for x in got] == [1.25] * 3
    with pytest.raises(AssertionError, match="a was not asked"):
        mixture(routes[:1], [None], [item("a", 1.0)])


def test_what_is_kept_of_tasks_is_a_mixture_too():
    def kept(*marks):
        found = tuple(item(f"i{n}", x) for n, x in enumerate(marks))
        task = AskedTask("t", "acc", True, found[2:])
        return Retained(found[:1], found[1:2], (task,))

    passed = (True, False, False, True)
    routes = [Route(id=f"i{n}", nearness=0.0, passed=x, seconds=0.0) for n, x in enumerate(passed)]
    got = retained_mixture(routes, kept(1.0, 1.0, 1.0, 1.0), kept(0.0, 0.0, 0.0, 0.0))
    assert [x.mark.correct for x in (*got.texts, *got.choices)] == [1.0, 0.0]
    assert [x.mark.correct for x in got.tasks[0].items] == [0.0, 1.0]
    assert (got.tasks[0].name, got.tasks[0].metric) == ("t", "acc")


@pytest.mark.parametrize(
    ("name", "cause", "fix"),
    [
        ("zero_shot+gated", "has nothing to gate", r"such as lora\+gated"),
        ("rag+gated", "has nothing to gate", r"such as lora\+gated"),
        ("gated", "has nothing to gate", r"such as lora\+gated"),
        ("lora+gated+rag", "does not say gated once and last", r"write lora\+rag\+gated"),
        ("lora+gated+gated", "does not say gated once and last", r"write lora\+gated"),
        ("lora+gatd", "no strategy called 'gatd'", "use 'gated'"),
        ("lora+prefix+gated", "is no method with a prompting strategy", "one of each"),
        ("lora+rag+few_shot+gated", "is no method with a prompting strategy", "one of each"),
    ],
)
def test_wrong_names(tmp_path, base, name, cause, fix):
    file = world.study_file(tmp_path, base, strategies=["zero_shot", name])
    with pytest.raises(ConfigError, match=rf"{cause}[^$]*fix: .*{fix}"):
        read_study(file)


def test_a_plan_trains_and_asks_once(tmp_path, base, patched):
    read = len(patched.read)
    found = plan(study_in(tmp_path, base, ["lora+gated", "lora"], train={"steps": 4}))
    zero, lora, gated = found.strategies
    assert (zero.name, lora.name, gated.name) == ("zero_shot", "lora", "lora+gated")
    assert lora.train_minutes > 0 == gated.train_minutes == gated.check_minutes
    assert lora.ask_minutes > 0 == gated.ask_minutes and gated.run == lora.run
    assert len(found.runs) == 1 and len(patched.read) == read
    (alone,) = plan(study_in(tmp_path / "b", base, ["lora+gated"])).strategies[1:]
    assert alone.train_minutes > 0 and alone.ask_minutes > 0


def test_the_verdict_may_allow_less_than_training(tmp_path, base, patched):
    file = study_in(tmp_path, base, ["zero_shot"], evaluate={"max_forgetting": 0.25})
    assert decide(file, tmp_path / "run").max_forgetting == 0.25
    assert read_study(file, ["evaluate.max_forgetting=null"]).max_forgetting == 9.0
    with pytest.raises(ConfigError, match=r"evaluate\.max_forgetting is -1"):
        read_study(file, ["evaluate.max_forgetting=-1"])


def test_auto_gates_what_forgets_too_much_and_nothing_else():
    results = [
        verdicts.result("zero_shot", 0.2, None),
        verdicts.result("lora", 0.6, 0.4, lost=0.2, kind="method"),
        verdicts.result("lora+rag", 0.6, 0.4, lost=0.2, kind="combination"),
        verdicts.result("prefix", 0.3, 0.1, lost=0.01, kind="method"),
    ]
    trials = GatedTrials(None, None, None, None)
    assert trials.further(results, 0.05) == ["lora+gated", "lora+rag+gated"]
    assert trials.further(results, 0.3) == []
    assert told(results) == []


def test_auto_adds_it_to_a_study(tmp_path, base, patched, monkeypatch):
    """What training never shows becomes less likely, so a text of nothing else is forgotten."""
    whole = shipped_suite()
    strange = tuple(replace(x, text="%&[]{}~^ " * 4) for x in whole.texts[:3])
    monkeypatch.setattr(_exam, "shipped_suite", lambda: Suite(strange, whole.choices[:4]))
    changes = {"evaluate": {"max_forgetting": 0.0, "retention": []}, "data": {"documents": []}}
    study = study_in(tmp_path, base, "auto", **changes)
    steps = []
    decided = decide(study, tmp_path / "run", listen=steps.append)
    by_name = {r.name: r for r in decided.strategies}
    assert by_name["lora"].retention.nats_change.mean > 0
    assert by_name["lora+gated"].retention.nats_change.mean == 0
    assert [s.name for s in steps[-1].standings][-1] == "lora+gated"
    assert any(x.startswith("lora is refused") for x in decided.recommendation.reasons)
    assert not any("was not tried" in x for x in decided.recommendation.would_change)


def test_it_answers_as_it_was_measured(run):
    folder = run[0].folder
    loaded, lora = load_run(folder, "lora+gated"), load_run(folder, "lora")
    near, far = "What colour is basil?", "Tomorrow we sail"
    inside = loaded.reply(near, new_tokens=4)
    assert inside.given_by == "adapter" and inside == lora.reply(near, new_tokens=4)
    outside = loaded.reply(far, new_tokens=4)
    assert outside.given_by == "base"
    assert outside == loaded.reply(far, new_tokens=4, bare=True)
    assert lora.reply(far, new_tokens=4).given_by == "adapter"
    for mine in items(folder, "lora+gated"):
        assert loaded.chat(mine["question"], new_tokens=4) == mine["reply"]


def test_a_file_is_scored_through_the_gate(run, tmp_path):
    folder = run[0].folder
    verdict = json.loads((folder / "verdict.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("gate", "trials", "dataset"):
        (copy / name).symlink_to(folder / name)
    verdict["recommendation"]["strategy"] = "lora+gated"
    (copy / "verdict.json").write_text(json.dumps(verdict))
    data = world.write_lines(tmp_path / "rows.jsonl", rows()[:6])
    found = score_file(str(copy), data, items=6, new_tokens=3)
    assert (found["items"], found["by_adapter"]) == (6, 4)
    assert found["strategy"] == "lora+gated"
