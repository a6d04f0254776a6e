"""LoRA against PEFT on identical weights, in both directions, and its own settings."""

import json

import peft
import pytest
import torch

from domainwright.core.errors import ConfigError, DataError
from domainwright.methods import METHODS
from domainwright.methods.lora import LoraSettings
from tests.methods.test_method_contract import DOCS, logits, tuned
from tests.tiny import CONFIGS, own_logits, tiny_base, tiny_model

LORA = METHODS.get("lora")
TARGETS = {"mamba": ("in_proj", "x_proj")}
"""PEFT refuses the other layers of Mamba, because kernels on a GPU read them directly."""


def peft_logits(model):
    return torch.cat([own_logits(model, ids) for ids in DOCS])


def moved(adapter, seed=1, by=0.1):
    """Far from the start, so that a parameter that is not read shows."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=source))
    return adapter


def peft_model(family, **settings):
    """A PEFT model of the tiny model with random factors."""
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        **{"r": 4, "lora_alpha": 6, "fan_in_fan_out": family == "gpt2", **settings},
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(tiny_model(family), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("family", CONFIGS)
def test_peft_reads_our_folder(family, tmp_path):
    base = tiny_base(family)
    adapter = tuned(base, "lora", rank=3, alpha=5.0, targets=TARGETS.get(family, ("all-linear",)))
    adapter.zero_grad()
    adapter.save(tmp_path)
    model = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path, is_trainable=True).eval()
    got = peft_logits(model)
    assert (got - peft_logits(tiny_model(family))).abs().max() > 1e-2
    torch.testing.assert_close(logits(base), got, rtol=0, atol=1e-5)
    # The same gradients, factor by factor.
    up = torch.randn(got.shape, generator=torch.Generator().manual_seed(0))
    (got * up).sum().backward()
    (logits(base) * up).sum().backward()
    theirs = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert len(theirs) == 2 * len(adapter.layers)
    for layer, a, b in zip(adapter.layers, adapter.A, adapter.B, strict=True):
        for side, ours in (("A", a), ("B", b)):
            want = theirs[f"base_model.model.{layer.path}.lora_{side}.default.weight"]
            scale = float(want.abs().max())
            torch.testing.assert_close(ours.grad, want, rtol=1e-4, atol=1e-5 * scale + 1e-7)


@pytest.mark.parametrize("family", CONFIGS)
def test_we_read_a_folder_of_peft(family, tmp_path):
    model = peft_model(family, target_modules=TARGETS.get(family, "all-linear"))
    model.save_pretrained(tmp_path)
    base = tiny_base(family)
    adapter = LORA.load(base, tmp_path)
    assert adapter.settings.rank == 4 and adapter.settings.alpha == 6.0
    adapter.attach()
    # Logits reach 25; the fused trunk sums in another order than PEFT.
    torch.testing.assert_close(logits(base), peft_logits(model), rtol=0, atol=5e-5)
    # Written again by us, PEFT still reads it.
    adapter.save(tmp_path / "again")
    again = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path / "again")
    torch.testing.assert_close(peft_logits(again), peft_logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, 4),
        ({"target_modules": r".*\.0\.mlp\.(up|down)_proj"}, 2),
        ({"target_modules": ["model.layers.1.self_attn.o_proj"]}, 1),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, 1),
        ({"target_modules": ["q_proj"], "layers_to_transform": 0}, 1),
        ({"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["k_proj"]}, 2),
        ({"target_modules": ["q_proj"], "exclude_modules": r".*layers\.0.*"}, 1),
    ],
)
def test_pefts_ways_of_naming_layers(settings, layers, tmp_path):
    model = peft_model("llama", **settings)
    model.save_pretrained(tmp_path)
    base = tiny_base()
    adapter = LORA.load(base, tmp_path)
    assert len(adapter.layers) == layers
    adapter.attach()
    torch.testing.assert_close(logits(base), peft_logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"layer_replication": [[0, 2], [1, 2]]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_what_lora_does_not_compute_is_refused(settings, tmp_path):
    """Loaded silently, each of these would give other logits than PEFT."""
    family = "qwen2" if "bias" in settings or "lora_bias" in settings else "llama"
    peft_model(family, **{"target_modules": ["q_proj"], **settings}).save_pretrained(tmp_path)
    with pytest.raises(DataError):
        LORA.load(tiny_base(family), tmp_path)


def test_another_method_of_peft_is_refused(tmp_path):
    config = peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]
    )
    peft.get_peft_model(tiny_model("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="IA3"):
        LORA.load(tiny_base(), tmp_path)


def test_an_adapter_that_lacks_a_declared_layer_is_refused(tmp_path):
    """PEFT only warns and leaves that layer unadapted (PEFT #1678)."""
    peft_model("llama", target_modules=["q_proj"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj", "v_proj"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"v_proj\.lora_A\.weight.*4 missing, 0 surplus"):
        LORA.load(tiny_base(), tmp_path)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("rank", [1, 5])
def test_the_number_of_parameters(family, rank):
    """rank x (inputs + outputs), from the shapes of transformers' own modules."""
    base = tiny_base(family)
    head = base.model.get_output_embeddings()
    want = sum(
        rank * sum(m.weight.shape)
        for m in base.model.modules()
        if type(m).__name__ in ("Linear", "Conv1D")
        and m is not head
        # Mamba never calls its dt_proj; see test_hooks.
        and (family != "mamba" or tuple(m.weight.shape) != (64, 2))
    )
    assert LORA.build(base, LoraSettings(rank=rank), 0).trainable == want


def test_the_start_is_pefts():
    """A ~ U(-1/√I, 1/√I), B = 0, float32 masters; drawn by name, so a subset draws the same."""
    base = tiny_base("llama", torch.bfloat16)
    adapter = LORA.build(base, LoraSettings(rank=64), 3)
    for layer, a, b in zip(adapter.layers, adapter.A, adapter.B, strict=True):
        bound = layer.inputs**-0.5
        assert a.dtype == b.dtype == torch.float32 and not b.any()
        assert 0.99 * bound < a.abs().max() <= bound
        assert abs(float(a.detach().std()) - bound / 3**0.5) < 0.03 * bound
    assert len({float(a.detach()[0, 0]) for a in adapter.A}) == len(adapter.A)
    part = LORA.build(base, LoraSettings(rank=64, targets=("down",)), 3)
    whole = {x.path: a for x, a in zip(adapter.layers, adapter.A, strict=True)}
    assert all(torch.equal(a, whole[x.path]) for x, a in zip(part.layers, part.A, strict=True))


def test_the_scale():
    base = tiny_base()
    linear = base.hooks.linears[0]
    adapter = LORA.build(base, LoraSettings(rank=2, alpha=7.0, targets=("q",)), 0)
    with torch.no_grad():
        adapter.B[0].fill_(0.1)
    x = torch.randn(3, 32)
    with adapter.attached():
        want = x @ linear.weight_OI.T + 3.5 * x @ adapter.A[0].T @ adapter.B[0].T
        torch.testing.assert_close(linear.module(x), want)


def test_dropout_acts_on_the_branch_in_training_only():
    base = tiny_base()
    adapter = tuned(base, "lora", dropout=0.5)
    with torch.no_grad():
        assert torch.equal(logits(base), logits(base))
    a, b = logits(base), logits(base)
    assert not torch.equal(a, b)
    adapter.detach()
    assert torch.equal(logits(base), logits(base))


@pytest.mark.parametrize(
    ("targets", "count"),
    [(("all-linear",), 14), (("q", "v"), 4), (("q_proj",), 2), (("mlp.up_proj", "gate"), 4)]
    + [(("model.layers.1.self_attn.q_proj",), 1), (("q", "q_proj"), 2)],
)
def test_targets(targets, count):
    adapter = LORA.build(tiny_base(), LoraSettings(targets=targets), 0)
    assert len(adapter.layers) == count
    order = [x.path for x in tiny_base().hooks.linears]
    assert [x.path for x in adapter.layers] == [
        p for p in order if p in {x.path for x in adapter.layers}
    ]


@pytest.mark.parametrize("target", ["qproj", "roj", "", "all-linear "])
def test_a_target_that_matches_nothing_lists_the_points(target):
    with pytest.raises(ConfigError, match=f"'{target}', which matches no layer") as caught:
        LORA.build(tiny_base(), LoraSettings(targets=("q", target)), 0)
    assert "down, gate, k, o, q, up, v" in caught.value.fix


@pytest.mark.parametrize(
    "settings", [{"rank": 0}, {"rank": -4}, {"dropout": 1.0}, {"dropout": -0.1}], ids=str
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LoraSettings(**settings)


def test_two_adapters_on_one_base_add_up():
    base = tiny_base()
    bare = base.hooks.linears[0].module.weight
    x = torch.randn(4, 32)
    adapters = [LORA.build(base, LoraSettings(targets=("q",)), seed) for seed in (1, 2)]
    for adapter in adapters:
        torch.nn.init.normal_(adapter.B[0])
        adapter.attach()
    want = x @ bare.T + sum(2.0 * x @ a.A[0].T @ a.B[0].T for a in adapters)
    torch.testing.assert_close(base.hooks.linears[0].module(x), want, rtol=1e-4, atol=1e-4)
    adapters[0].detach()
    want = x @ bare.T + 2.0 * x @ adapters[1].A[0].T @ adapters[1].B[0].T
    torch.testing.assert_close(base.hooks.linears[0].module(x), want, rtol=1e-4, atol=1e-4)
