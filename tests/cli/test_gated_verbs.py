"""`dw chat` and `dw export` of a strategy with a gate."""

import json

import pytest

from domainwright.core.artifacts import read_manifest
from domainwright.studies._gate import load_gate
from domainwright.studies.api import decide
from domainwright.studies.export import export
from tests.studies import world
from tests.studies.words import stand_in

NEAR, FAR = "What colour is basil?", "Tomorrow we sail"


@pytest.fixture(scope="module")
def words():
    with pytest.MonkeyPatch.context() as patch:
        yield stand_in(patch)


@pytest.fixture(scope="module")
def run(tmp_path_factory, base, words):
    """A study whose one trained strategy is gated."""
    folder = tmp_path_factory.mktemp("gated")
    study = world.study_file(folder, base, strategies=["lora+gated"], train={"steps": 2})
    return decide(study, folder / "run").folder


def test_chat_says_who_answered(dw, run):
    options = ("--strategy", "lora+gated", "--new-tokens", "2")
    for question, who in ((NEAR, "adapter"), (FAR, "base")):
        said = dw("chat", run, "-q", question, *options, "--json")
        found = json.loads(said.out)
        assert found["answered_by"] == who and found["strategy"] == "lora+gated"
        assert who == "adapter" or found["answer"] == found["base"]
    assert "answered by the adapter\n" in dw("chat", run, "-q", NEAR, *options).out
    said = dw("chat", run, "-q", FAR, *options)
    assert "answered by the base: outside the domain\n" in said.out


def test_chat_with_the_adapter_alone_has_no_gate(dw, run):
    said = dw("chat", run, "-q", FAR, "--strategy", "lora", "--new-tokens", "2", "--json")
    assert json.loads(said.out)["answered_by"] == "adapter"
    assert "answered by" not in dw("chat", run, "-q", FAR, "--strategy", "lora").out


@pytest.mark.parametrize("form", ["merged", "peft"])
def test_an_export_says_that_its_gate_is_lost(dw, run, tmp_path, form):
    said = dw("export", run, "-o", tmp_path / "out", "--to", form)
    assert said.code == 0 and said.out == f"{form}  {tmp_path / 'out'}\n"
    assert "lora+gated is gated, and no exported form holds a gate" in said.err
    assert "answers everything with the adapter" in said.err.replace("\n", " ")
    beside = load_gate(tmp_path / "out/gate")
    assert beside.hash == read_manifest(run / "gate")["hash"]
    readme = (tmp_path / "out/gate/README.md").read_text()
    assert readme.startswith("lora+gated is gated") and "dw chat" in readme
    again = dw("export", run, "-o", tmp_path / "again", "--to", form, "--json")
    assert json.loads(again.out)["lost"] == readme.strip()


def test_an_export_without_a_gate_says_nothing(dw, base, tmp_path):
    study = world.study_file(tmp_path, base, strategies=["lora"], train={"steps": 2})
    folder = decide(study, tmp_path / "run").folder
    said = dw("export", folder, "-o", tmp_path / "out", "--to", "peft")
    assert said.err == "" and not (tmp_path / "out/gate").exists()
    assert export(folder, tmp_path / "merged", "merged") == tmp_path / "merged"
    assert not (tmp_path / "merged/gate").exists()


def test_the_card_says_that_the_weights_alone_answer_everything(run):
    card = (run / "trials/lora/adapter/README.md").read_text()
    assert "# lora+gated on" in card and "loaded alone they answer everything" in card
    assert "forgetting of these weights without their gate" in card
