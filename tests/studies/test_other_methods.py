"""Methods beyond LoRA through a whole study: in the file, trained, measured, asked, described."""

import json

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from domainwright.core.errors import ConfigError, UnknownName
from domainwright.models.flat import flatten
from domainwright.studies.api import decide, load_run
from domainwright.studies.card import model_card
from domainwright.studies.export import export
from domainwright.studies.study import read_study
from tests.studies.world import save_base, study_file

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
STRATEGIES = ["zero_shot", "peft:vera", "peft:vera+few_shot", "prefix", "compacter"]
CHANGES = {
    "strategies": STRATEGIES,
    "methods": {
        "peft:vera": {"r": 8, "target_modules": "all-linear"},
        "prefix": {"gate": True, "rows": 4},
        "compacter": {"plus": True},
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    base = save_base(folder / "base")
    return folder, base


@pytest.fixture(scope="module")
def decided(world):
    folder, base = world
    return decide(study_file(folder / "study", base, **CHANGES), folder / "run")


def test_every_strategy_is_measured(decided):
    assert {r.name: r.status for r in decided.strategies} == dict.fromkeys(STRATEGIES, "done")
    kinds = {r.name: r.kind for r in decided.strategies}
    assert kinds["peft:vera"] == "method" and kinds["peft:vera+few_shot"] == "combination"
    # One training for both.
    assert sorted(p.name for p in (decided.folder / "trials").glob("*/adapter")) == ["adapter"] * 3


def test_the_adapter_of_a_type_of_peft_loads_there(world, decided):
    run = load_run(decided.folder, "peft:vera")
    ids = [5, 9, 11, 40, 7]
    with run.adapter.attached(), torch.no_grad():
        want = run.base.logits(flatten([ids]), torch.arange(5))
    base = AutoModelForCausalLM.from_pretrained(world[1], dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, decided.folder / "trials/peft:vera/adapter")
    got = model.eval()(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def test_the_cards_say_who_can_load_it(decided):
    cards = {name: model_card(decided.verdict, name) for name in ("peft:vera", "prefix")}
    assert "library_name: peft" in cards["peft:vera"] and "PeftModel" in cards["peft:vera"]
    # Gated: PEFT has no such type.
    assert "library_name: domainwright" in cards["prefix"]


def test_a_gated_prefix_is_not_exported_for_peft(decided, tmp_path):
    verdict = json.loads((decided.folder / "verdict.json").read_text())
    verdict["recommendation"]["strategy"] = "prefix"
    file = decided.folder / "verdict.json"
    before = file.read_text()
    file.write_text(json.dumps(verdict))
    try:
        with pytest.raises(ConfigError, match="PEFT has no type"):
            export(decided.folder, tmp_path / "out", "peft")
    finally:
        file.write_text(before)


def test_a_study_file_names_types_of_peft(world, tmp_path):
    def read(**changes):
        return read_study(study_file(tmp_path, world[1], **changes))

    with pytest.raises(UnknownName, match="'peft:vera'"):
        read(strategies=["zero_shot", "peft:vara"])
    with pytest.raises(ConfigError, match="methods peft:vera has no setting 'ranks'"):
        read(strategies=["peft:vera"], methods={"peft:vera": {"ranks": 8}})
    with pytest.raises(ConfigError, match="no method with a prompting strategy"):
        read(strategies=["peft:vera+lora"])
