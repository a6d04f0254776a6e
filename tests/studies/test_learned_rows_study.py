"""`lora.tokens` from the study file to what is planned, trained, exported and refused."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from domainwright.core.errors import ConfigError
from domainwright.models.flat import flatten
from domainwright.studies.api import load_run, plan, train_method
from domainwright.studies.combine import combine_runs
from domainwright.studies.export import export
from tests.methods.test_token_rows import words_of
from tests.studies.world import save_base, study_file

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
WORDS = list(words_of())
IDS = [5, 9, 11, 40, 7]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    base = save_base(folder / "base")
    study = study_file(folder / "study", base, methods={"lora": {"tokens": WORDS}})
    return folder, base, study


@pytest.fixture(scope="module")
def run(world):
    folder, _, study = world
    figures = train_method(study, "lora", folder / "run", overrides=["train.steps=4"])
    plain = train_method(
        study, "lora", folder / "plain", overrides=["train.steps=4", "methods.lora.tokens=null"]
    )
    assert figures.trainable == plain.trainable + len(WORDS) * 32
    return folder / "run"


def logits_of(loaded):
    ids = [*IDS, *loaded.adapter.token_ids]
    with loaded.adapter.attached(), torch.no_grad():
        return ids, loaded.base.logits(flatten([ids]), torch.arange(len(ids)))


def test_a_run_is_opened_and_exported(world, run, tmp_path):
    loaded = load_run(run)
    assert len(loaded.adapter.token_ids) == len(WORDS)
    own = loaded.base.model.model.embed_tokens.weight
    assert (loaded.adapter.token_rows != own[list(loaded.adapter.token_ids)]).any(1).all()
    ids, want = logits_of(loaded)
    export(run, tmp_path / "merged", "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    got = merged.eval()(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(got, want, rtol=0, atol=2e-4)
    export(run, tmp_path / "peft", "peft")
    base = AutoModelForCausalLM.from_pretrained(world[1], dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    got = model(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(got, want, rtol=0, atol=2e-4)


def test_runs_with_them_are_not_combined(world, run, tmp_path):
    with pytest.raises(ConfigError, match=r"lora\.tokens. cannot be combined"):
        combine_runs([world[0] / "plain", run], tmp_path / "both")


def test_the_plan_probes_them(world, tmp_path):
    base = world[1]
    study = study_file(
        tmp_path / "study",
        base,
        strategies=["zero_shot", "lora"],
        methods={"lora": {"tokens": WORDS}},
    )
    assert any(line.name == "lora" for line in plan(study).strategies)
