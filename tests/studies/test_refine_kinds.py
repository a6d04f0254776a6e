"""Rounds of what is more than one adapter on its base: a gate, a past, a teacher."""

import json
import shutil

import numpy as np
import pytest
import torch

import domainwright as dw
from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import ConfigError, DataError
from domainwright.models.base import load_base
from domainwright.studies._beginnings import gone_on
from domainwright.studies._gate import gate_in_force, load_gate, threshold
from domainwright.studies._opened import open_adapter
from domainwright.studies.api import train_method
from domainwright.studies.refine.champion import answering, crown, roll_back
from domainwright.studies.refine.rounds import refine
from domainwright.studies.refine.source import open_source
from domainwright.train import teacher
from tests.studies import world
from tests.studies.test_refine import texts
from tests.studies.words import stand_in

PLANTS = [f"{name}{end}" for end in ("", "wort") for name in world.PLANTS]
OWN, NEW = "trials/lora/adapter", "refine/round-1/trial/adapter"


@pytest.fixture(scope="module")
def patched():
    """The gate's encoder, and a suite of six texts and eight choices."""
    with pytest.MonkeyPatch.context() as patch:
        world.small_suite(patch)
        yield stand_in(patch)


def odd_rows():
    """Every third question has no word in common with another."""
    found = world.questions(PLANTS)
    for place, row in enumerate(found):
        if place % 3 == 2:
            row["question"] = f"Ab{place} cd{place} ef{place} gh{place}?"
    return found


@pytest.fixture(scope="module")
def gated(tmp_path_factory, base, patched):
    folder = tmp_path_factory.mktemp("gated")
    study = world.study_file(
        folder,
        base,
        rows=odd_rows(),
        strategies=["lora+gated"],
        data={"development_share": 0.4},
        gate={"share": 0.6, "nearest": 2},
        train={"learning_rate": 0.1},
    )
    return dw.decide(study, folder / "run").folder


@pytest.fixture
def run(gated, tmp_path):
    return shutil.copytree(gated, tmp_path / "run")


def items(folder, part="scorecard"):
    return {x["id"]: x for x in world.read_lines(folder / part / "items.jsonl")}


def test_a_gated_champion_is_asked_as_it_answers(run):
    """Past the gate the adapter's own answer, elsewhere bit for bit the base's."""
    found = refine(run, strategy="lora+gated", steps=2)
    place = run / "refine/round-1"
    gate = load_gate(run / "gate")
    for who in ("champion", "challenger"):
        mixed, alone = items(place / who), items(place / who, "adapter-alone")
        bare, passed = items(run / "refine/base"), set()
        for name, item in mixed.items():
            passed.add(gate.passes(item["question"]))
            side = alone if gate.passes(item["question"]) else bare
            assert item["reply"] == side[name]["reply"]
        assert passed == {True, False}
    # What is left to the base is the same before and after: nothing is gained or lost there.
    both = [items(place / who) for who in ("champion", "challenger")]
    shut = [n for n, x in both[1].items() if not gate.passes(x["question"])]
    assert shut and all(both[0][n]["reply"] == both[1][n]["reply"] for n in shut)
    # Read again without new questions, the gate stays what it is.
    assert found.proposal.source == "repeated" and not (place / "gate").exists()
    assert read_manifest(place)["parents"]["gate"] == gate.hash


def test_what_a_gated_round_forgets_is_what_passes(run):
    """The suite has no word of the domain, so that nothing reaches either adapter."""
    found = refine(run, strategy="lora+gated", steps=2).decision
    routes = world.read_lines(run / "refine/round-1/challenger/routes-general/routes.jsonl")
    assert len(routes) == 14 and not any(x["passed"] for x in routes)
    for change in (found.against_base, found.against_champion):
        assert change.nats_per_token.mean == change.accuracy.mean == 0
    alone = refine(run, strategy="lora", steps=2).decision
    assert alone.against_base.nats_per_token.mean != 0


def test_new_questions_reach_the_challenger(run, tmp_path):
    rows = [
        {"id": f"new-{n}", "question": f"Zeta eta theta {word}?", "answer": f"the {word} shop"}
        for n, word in enumerate(("iota", "kappa", "lambda", "my", "ny", "xi"))
    ]
    file = world.write_lines(tmp_path / "new.jsonl", rows)
    found = refine(run, strategy="lora+gated", steps=2, data=[file])
    place, old = run / "refine/round-1", load_gate(run / "gate")
    wide = load_gate(place / "gate")
    assert found.proposal.source == "data" and found.proposal.chosen > 1
    assert len(wide.vectors_NE) == len(old.vectors_NE) + found.proposal.chosen
    assert np.array_equal(wide.vectors_NE[: len(old.vectors_NE)], old.vectors_NE)
    assert wide.passes("Zeta eta theta omega?") and not old.passes("Zeta eta theta omega?")
    # Fitted on the half that is looked at, not on the one that judges.
    source = open_source(run, "lora+gated", lambda step: None)
    judged = items(place / "challenger")
    looked = [row for row in source.data.split.dev if row.id not in judged]
    near = [wide.nearness(row.question) for row in looked]
    assert wide.development == len(looked) and wide.threshold == threshold(near, 0.6)
    # In force with its adapter, and gone with it.
    assert not found.decision.accepted and gate_in_force(run, OWN) == run / "gate"
    crown(run, OWN, NEW, 1)
    assert gate_in_force(run, OWN) == place / "gate"
    opened = dw.load_run(run, "lora+gated")
    assert opened.gate.hash == wide.hash
    assert opened.reply("Zeta eta theta omega?", new_tokens=1).given_by == "adapter"
    roll_back(run)
    assert dw.load_run(run, "lora+gated").gate.hash == old.hash


def test_a_resumed_gated_round_ends_alike(run, tmp_path, monkeypatch):
    other = shutil.copytree(run, tmp_path / "other")
    whole = refine(run, strategy="lora+gated", steps=2).decision
    from domainwright.studies.refine import challenger

    plain = challenger.Ring.judge

    def stops(self, *args):
        plain(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(challenger.Ring, "judge", stops)
    with pytest.raises(KeyboardInterrupt):
        refine(other, strategy="lora+gated", steps=2)
    monkeypatch.undo()
    assert refine(other, strategy="lora+gated", steps=2, resume=True).decision == whole


@pytest.fixture(scope="module")
def beside(tmp_path_factory, base, patched):
    """A run beside an earlier one, which is far from done: more steps help."""
    folder = tmp_path_factory.mktemp("past")
    changes = {"data": {"development_share": 0.4}, "train": {"steps": 2}}
    study = world.study_file(folder, base, rows=texts(), **changes)
    train_method(study, "lora", folder / "first")
    past = ["methods.lora.past=[first]", "methods.lora.rank=4", "train.penalties.o_lora.weight=0.2"]
    train_method(study, "lora", folder / "second", overrides=past)
    return folder


def halves_of(folder, base, past):
    """(A and B of the past, A and B of the rest) of every layer of an artifact."""
    adapter = open_adapter(load_base(str(base), dtype="float32", device="cpu"), folder)
    cut = [(a[:past], b[:, :past], a[past:], b[:, past:]) for a, b in zip(adapter.A, adapter.B)]  # noqa: B905
    return cut, adapter


def test_a_past_stays_while_the_rest_learns(beside, base, tmp_path):
    shutil.copytree(beside, tmp_path / "all")
    run = tmp_path / "all/second"
    settings = json.loads((run / "chosen.json").read_text())
    assert settings["rank"] == 4
    found = refine(run, steps=20)
    assert found.decision.accepted, found.decision
    champion, _ = halves_of(run / "adapter", base, 16)
    new, adapter = halves_of(run / NEW, base, 16)
    for old, now in zip(champion, new, strict=True):
        assert torch.equal(old[0], now[0]) and torch.equal(old[1], now[1])
        assert not torch.equal(old[2], now[2]) and not torch.equal(old[3], now[3])
        assert len(now[0]) + len(now[2]) == 20
    manifest = read_manifest(run / NEW, "adapter")
    first = read_manifest(beside / "first/adapter", "adapter")["hash"]
    assert manifest["parents"]["past 1"] == first
    assert manifest["parents"]["begin"] == read_manifest(run / "adapter", "adapter")["hash"]
    assert found.training.trainable == sum(len(x[2][0]) * 4 + len(x[3]) * 4 for x in new)
    assert dw.load_run(run).adapter.state_dict().keys() == adapter.state_dict().keys()
    # A second round goes on from the first in the same way.
    refine(run, steps=1)
    again, _ = halves_of(run / "refine/round-2/trial/adapter", base, 16)
    assert all(torch.equal(x[0], y[0]) for x, y in zip(champion, again, strict=True))


def test_an_adapter_gone_on_with_is_the_one_that_was_saved(beside, base):
    loaded = load_base(str(base), dtype="float32", device="cpu")
    given = {"past": [str(beside / "first")], "rank": 4}
    fresh = gone_on(loaded, "lora", given, beside / "second/adapter")
    want = open_adapter(loaded, beside / "second/adapter").stored()
    got = fresh.stored()
    assert all(torch.allclose(got[name], want[name]) for name in want)
    assert sum(p.requires_grad for p in fresh.parameters()) == 2 * len(fresh.layers)
    with pytest.raises(DataError, match="has another past"):
        gone_on(
            loaded, "lora", {**given, "past": [str(beside / "second")]}, beside / "second/adapter"
        )


def test_a_past_that_is_gone_is_refused_before_anything_is_asked(beside, tmp_path):
    shutil.copytree(beside, tmp_path / "all")
    run = tmp_path / "all/second"
    text = (run / "study.yaml").read_text().replace(str(beside / "first"), "/gone")
    (run / "study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"lora\.past names '/gone', and there is no such folder"):
        refine(run, steps=1)
    assert not (run / "refine").exists()


def test_a_teacher_that_was_refined_teaches_with_its_champion(beside, base, tmp_path, monkeypatch):
    shutil.copytree(beside / "first", tmp_path / "expert")
    expert = tmp_path / "expert"
    assert answering(str(expert)) == str(expert)
    refine(expert, steps=20)
    assert answering(str(expert)) == str(expert / NEW)
    assert answering(str(expert / "adapter")) == str(expert / "adapter")  # named outright
    asked = []
    plain = teacher.find
    monkeypatch.setattr(teacher, "find", lambda n, b: asked.append(n) or plain(n, b))
    changes = {
        "data": {"development_share": 0.4},
        "train": {"steps": 2, "distil": {"teacher": "../expert", "weight": 0.3, "top": 8}},
    }
    study = world.study_file(tmp_path / "study", base, rows=texts(), **changes)
    train_method(study, "lora", tmp_path / "run")
    found = refine(tmp_path / "run", steps=2)
    assert asked == [str(tmp_path / "study/../expert" / NEW)] * len(asked) and len(asked) > 1
    said = read_manifest(tmp_path / "run" / NEW, "adapter")["parents"]["lessons"]
    kept = [read_manifest(p, "lessons") for p in (tmp_path / "run/lessons").iterdir()]
    assert said in [x["hash"] for x in kept] and found.training.settings["distil"]["weight"] == 0.3
