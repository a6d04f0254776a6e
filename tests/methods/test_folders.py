"""Which method a folder is of, on folders that PEFT itself saved."""

import json

import peft
import pytest
import torch

from domainwright.core.errors import DataError
from domainwright.methods import METHODS
from domainwright.methods._folders import OF_PEFT, method_of
from domainwright.studies._opened import open_adapter
from tests.methods.test_method_contract import family_of, logits, tuned
from tests.methods.test_prompts import peft_logits
from tests.tiny import tiny_base, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TASK = {"task_type": "CAUSAL_LM"}
ROWS = {**TASK, "num_virtual_tokens": 3}
SAVED = {
    "lora": peft.LoraConfig(**TASK),
    "dora": peft.LoraConfig(**TASK, use_dora=True),
    "ia3": peft.IA3Config(**TASK),
    "layernorm": peft.LNTuningConfig(**TASK),
    "prefix": peft.PrefixTuningConfig(**ROWS),
    "prompt": peft.PromptTuningConfig(**ROWS),
    "ptuning": peft.PromptEncoderConfig(**ROWS, encoder_hidden_size=8),
    "peft:vera": peft.VeraConfig(**TASK),
    "peft:oft": peft.OFTConfig(**TASK),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_folder_of_peft_without_notes_of_ours_is_loaded_as_what_it_is(name, tmp_path):
    model = peft.get_peft_model(tiny_model("llama"), SAVED[name]).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path)
    assert method_of(tmp_path) == name
    base = tiny_base("llama")
    adapter = open_adapter(base, tmp_path)
    assert adapter.method == name
    want = peft_logits(model, 3 if name in ("prompt", "ptuning") else 0)
    with adapter.attached():
        torch.testing.assert_close(logits(base), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_finds_its_own_folder(name, tmp_path):
    family = family_of(name)
    base = tiny_base(family)
    tuned(base, name).save(tmp_path)
    assert method_of(tmp_path) == name
    kind = METHODS.get(name).peft_type
    if kind is not None:
        (tmp_path / "domainwright.json").unlink()
        # One type of PEFT may be several methods: what it holds decides, not who wrote it.
        found = method_of(tmp_path)
        assert METHODS.get(found).peft_type == kind and OF_PEFT[kind] in (found, "lora")


@pytest.mark.parametrize(
    ("config", "message"),
    [("{}", "names no method"), ("[]", "holds no settings"), ("{", "cannot be read")],
)
def test_a_folder_of_nothing_known_is_refused(config, message, tmp_path):
    with pytest.raises(DataError, match=r"lacks adapter_config\.json"):
        method_of(tmp_path)
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(DataError, match=message):
        method_of(tmp_path)


def test_types_that_are_not_ours_are_called_by_their_own_name(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "VERA"}))
    assert method_of(tmp_path) == "peft:vera"
