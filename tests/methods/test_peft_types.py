"""Every method that PEFT has too, against PEFT on identical weights, in both directions."""

import peft
import pytest
import torch

from domainwright.core.errors import DataError
from domainwright.methods import METHODS
from domainwright.studies import card
from tests.methods.test_lora import peft_logits, peft_model
from tests.methods.test_method_contract import REFUSED, logits, tuned
from tests.tiny import CONFIGS, tiny_base, tiny_model

pytestmark = [
    # PEFT's own words about norms, and about loading a head.
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
FAMILIES = [f for f in CONFIGS if f not in ("mamba", "mistral", "gemma")]
"""Mistral has Llama's layers, Gemma a part of Gemma 2's; PEFT warns on most layers of Mamba."""
PLAIN = ("ia3", "layernorm", "dora")
"""Methods whose tensors sit on layers; LoRA and the methods in prompt space have own files."""
CASES = [(m, f) for m in PLAIN for f in FAMILIES if f not in REFUSED.get(m, ())]
LEARNED = {"ia3": "ia3_l", "layernorm": "ln_tuning", "dora": "lora_"}


def theirs(method, family):
    """A PEFT model of the tiny model with random changes."""
    if method == "dora":
        return peft_model(family, use_dora=True, target_modules="all-linear")
    if method == "ia3":
        config = peft.IA3Config(task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2", **NAMES)
        adapt = NAMES_OF.get(family, LLAMA)
        config.target_modules, config.feedforward_modules = set(adapt[0]), set(adapt[1])
    else:
        norms = [s.path for s in tiny_base(family).hooks.at("norm")]
        config = peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=norms)
    model = peft.get_peft_model(tiny_model(family), config).eval()
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if LEARNED[method] in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=source)
    return model


NAMES = {"target_modules": ["k_proj"], "feedforward_modules": []}
LLAMA = (["k_proj", "v_proj", "down_proj"], ["down_proj"])
NAMES_OF = {
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "gpt_neox": (["query_key_value", "dense_4h_to_h"], ["dense_4h_to_h"]),
    "phi": (["k_proj", "v_proj", "fc2"], ["fc2"]),
    "phi3": (["qkv_proj", "down_proj"], ["down_proj"]),
}


@pytest.mark.parametrize(("method", "family"), CASES)
def test_peft_reads_our_folder(method, family, tmp_path):
    base = tiny_base(family)
    adapter = tuned(base, method)
    adapter.zero_grad()
    adapter.save(tmp_path)
    model = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path, is_trainable=True).eval()
    got = peft_logits(model)
    assert (got - peft_logits(tiny_model(family))).abs().max() > 1e-2
    torch.testing.assert_close(logits(base), got, rtol=0, atol=5e-5)
    # The same gradients, tensor by tensor, by the names in the file.
    up = torch.randn(got.shape, generator=torch.Generator().manual_seed(0))
    (got * up).sum().backward()
    (logits(base) * up).sum().backward()
    gradients = {
        n.removeprefix("base_model.model.").replace(".default", ""): p.grad
        for n, p in model.named_parameters()
        if p.requires_grad
    }
    own = {tensor.data_ptr(): name for name, tensor in adapter.stored().items()}
    assert len(gradients) == len(own) == len(list(adapter.parameters()))
    for parameter in adapter.parameters():
        name = own[parameter.data_ptr()]
        want = gradients.get(name, gradients.get(f"{name}.weight"))
        scale = float(want.abs().max())
        torch.testing.assert_close(
            parameter.grad, want.reshape(parameter.shape), rtol=1e-3, atol=1e-4 * scale + 1e-7
        )


@pytest.mark.parametrize(("method", "family"), CASES)
def test_we_read_a_folder_of_peft(method, family, tmp_path):
    model = theirs(method, family)
    model.save_pretrained(tmp_path)
    base = tiny_base(family)
    adapter = METHODS.get(method).load(base, tmp_path)
    adapter.attach()
    assert (peft_logits(model) - peft_logits(tiny_model(family))).abs().max() > 1e-2
    torch.testing.assert_close(logits(base), peft_logits(model), rtol=0, atol=1e-4)
    # Written again by us, PEFT still reads it.
    adapter.save(tmp_path / "again")
    again = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path / "again")
    torch.testing.assert_close(peft_logits(again), peft_logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", PLAIN)
def test_pefts_own_choice_of_layers_is_read(method, tmp_path):
    """Its defaults name layers by the end of their paths."""
    configs = {"ia3": peft.IA3Config, "layernorm": peft.LNTuningConfig, "dora": peft.LoraConfig}
    more = {"use_dora": True} if method == "dora" else {}
    config = configs[method](task_type="CAUSAL_LM", **more)
    model = peft.get_peft_model(tiny_model("llama"), config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if LEARNED[method] in name:
                parameter += 0.3 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path)
    base = tiny_base("llama")
    METHODS.get(method).load(base, tmp_path).attach()
    torch.testing.assert_close(logits(base), peft_logits(model), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", PLAIN)
def test_modules_saved_whole_are_refused(method, tmp_path):
    """Loaded silently, the head that PEFT trained beside the adapter would be lost."""
    configs = {"ia3": peft.IA3Config, "layernorm": peft.LNTuningConfig, "dora": peft.LoraConfig}
    more = {"use_dora": True} if method == "dora" else {}
    config = configs[method](task_type="CAUSAL_LM", modules_to_save=["lm_head"], **more)
    peft.get_peft_model(tiny_model("qwen2"), config).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="modules_to_save"):
        METHODS.get(method).load(tiny_base("qwen2"), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 9.0}},
        {"rank_pattern": {r"layers\.0\..*": 7}},
        {"use_rslora": True},
        {"use_rslora": True, "rank_pattern": {"down_proj": 1}, "alpha_pattern": {"up_proj": 1.0}},
        {"use_rslora": True, "use_dora": True, "rank_pattern": {"down_proj": 1}},
    ],
    ids=str,
)
def test_ranks_and_scales_layer_by_layer(settings, tmp_path):
    model = peft_model("llama", target_modules="all-linear", **settings)
    model.save_pretrained(tmp_path)
    base = tiny_base("llama")
    method = METHODS.get("dora" if "use_dora" in settings else "lora")
    adapter = method.load(base, tmp_path)
    adapter.attach()
    torch.testing.assert_close(logits(base), peft_logits(model), rtol=0, atol=1e-4)
    adapter.save(tmp_path / "again")
    again = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "again")
    torch.testing.assert_close(peft_logits(again), peft_logits(model), rtol=0, atol=1e-5)


def test_the_model_card_knows_what_peft_can_load():
    """Its list is written by hand, because asking the methods would import torch."""
    names = METHODS.names()
    assert {n for n in names if METHODS.get(n).peft_type} == set(card.PEFT) & set(names)
