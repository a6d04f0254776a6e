"""Methods that hold new values of the base's own weights, and what only some of them can do."""

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.methods import METHODS
from domainwright.models.base import Base
from domainwright.models.flat import flatten
from domainwright.train import loss as loss_head
from domainwright.train.loss import summed_loss
from tests.methods.test_method_contract import DOCS, build, logits, step, tuned
from tests.tiny import CONFIGS, tiny_base, tiny_model


@pytest.mark.parametrize("grid", [1, 16])
@pytest.mark.parametrize("family", [f for f in CONFIGS if f != "mamba"])
def test_the_gradient_of_full_is_that_of_transformers(family, grid, monkeypatch):
    """Of every parameter, through the loop's own loss; a tied head counts on both of its ends.

    The head's gradient is the sum over blocks, and rows that fill the grid add nothing to it.
    """
    monkeypatch.setattr(loss_head, "BLOCK", 4 * grid)
    monkeypatch.setattr(Base, "grid", grid)
    model = tiny_model(family)
    for ids in DOCS:
        rows = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        torch.nn.functional.cross_entropy(rows, torch.tensor(ids[1:]), reduction="sum").backward()
    base = tiny_base(family)
    adapter = build(base, "full")
    flat = flatten(DOCS)
    places = torch.cat([torch.arange(s.start, s.stop - 1) for s in flat.documents()])
    with adapter.attached():
        summed_loss(base, flat, places, flat.ids_T[places + 1]).backward()
    assert adapter.names == [n for n, _ in model.named_parameters()]
    for name, value in zip(adapter.names, adapter.values, strict=True):
        want = model.get_parameter(name).grad
        atol = 1e-4 * float(want.abs().max()) + 1e-6
        torch.testing.assert_close(value.grad, want, rtol=1e-3, atol=atol, msg=name)


def test_without_the_embeddings_both_ends_stay():
    for family in ("llama", "qwen2", "gpt2"):
        base = tiny_base(family)
        adapter = build(base, "full", embeddings=False)
        ends = {n for n in base.model.state_dict() if "embed" in n or "head" in n or "wte" in n}
        assert ends and not ends & set(adapter.names)


def test_tied_weights_stay_one():
    base = tiny_base("llama")
    adapter = tuned(base, "full")
    assert base.model.lm_head.weight is adapter.values[0]
    assert base.model.model.embed_tokens.weight is adapter.values[0]
    kinds = {type(m).__name__ for m in base.model.modules()}
    adapter.detach()
    assert kinds == {type(m).__name__ for m in base.model.modules()}
    assert type(base.model.lm_head) is torch.nn.Linear


def test_two_that_replace_the_same_weights_are_refused():
    base = tiny_base("llama")
    first = build(base, "full", embeddings=False)
    before = logits(base)
    with build(base, "layernorm").attached():
        with pytest.raises(CapabilityError, match="the same weights"):
            first.attach()
        # Nothing of it stays behind: not even what it had hung before the clash.
        assert type(base.hooks.linears[0].module) is torch.nn.Linear
    assert torch.equal(logits(base), before)


def test_small_steps_on_a_bfloat16_base_are_kept():
    base = tiny_base("llama", torch.bfloat16)
    adapter = build(base, "full")
    adapter.attach()
    before = logits(base)
    start = [v.detach().clone() for v in adapter.values]
    with torch.no_grad():
        for _ in range(200):
            for value in adapter.values:
                value.add_(1e-4)
    assert adapter.values[0].dtype == torch.float32 and logits(base).dtype == torch.bfloat16
    for value, first in zip(adapter.values, start, strict=True):
        assert abs(float((value - first).detach().mean()) - 0.02) < 1e-4
    assert not torch.equal(logits(base), before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "mamba"])
def test_top_layers_are_the_last_ones(family):
    base = tiny_base(family)
    names = build(base, "top_layers", blocks=1).names
    assert all(".1." in n or "norm" in n or "ln_f" in n for n in names)
    assert not any(".0." in n for n in names)
    both = build(base, "top_layers", blocks=2).names
    assert len(both) > len(names) and any(".0." in n for n in both)
    with pytest.raises(ConfigError, match="has 2 blocks"):
        build(base, "top_layers", blocks=3)
    with pytest.raises(ConfigError, match="blocks is 0"):
        build(base, "top_layers", blocks=0)


def test_below_the_top_layers_nothing_is_differentiated():
    base = tiny_base("llama")
    seen = []
    base.model.model.layers[0].register_forward_hook(lambda *a: seen.append(a[2].requires_grad))
    base.model.model.layers[1].register_forward_hook(lambda *a: seen.append(a[2].requires_grad))
    with build(base, "top_layers").attached():
        logits(base)
    assert seen == [False, True]


def test_bitfit_without_norms():
    with_norms, without = (build(tiny_base("gpt2"), "bitfit", norms=n).names for n in (True, False))
    assert set(with_norms) - set(without) and not any("ln_" in n for n in without)


def test_bitfit_names_what_to_choose_instead():
    with pytest.raises(CapabilityError, match="no bias terms") as caught:
        build(tiny_base("llama"), "bitfit")
    assert "ia3" in caught.value.fix and "lora" in caught.value.fix


def test_ia3_at_other_points():
    base = tiny_base("llama")
    adapter = build(base, "ia3", outputs=("q", "o"), inputs=())
    assert adapter.trainable == 2 * (32 + 32)
    adapter.attach()
    assert step(base, adapter) == {n for n, _ in adapter.named_parameters()}
    with pytest.raises(CapabilityError, match="no layer at the hook point"):
        build(base, "ia3", outputs=("qq",))


@pytest.mark.parametrize("ratio", [1.0, 16.0])
def test_the_rates_of_loraplus_are_pefts(ratio):
    model = peft.get_peft_model(tiny_model("llama"), peft.LoraConfig(target_modules="all-linear"))
    optimiser = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=ratio, weight_decay=0.0
    )
    theirs = {}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            name = next(n for n, p in model.named_parameters() if p is parameter)
            theirs[name.split("lora_")[0] + name.split("lora_")[1][0]] = group["lr"]
    adapter = build(tiny_base("llama"), "lora", rate_ratio=ratio)
    names = {}
    for layer, a, b in zip(adapter.layers, adapter.A, adapter.B, strict=True):
        path = f"base_model.model.{layer.path}"
        names |= {id(a): f"{path}.A", id(b): f"{path}.B"}
    ours = {names[id(p)]: 1e-3 * rate for group, rate in adapter.rate_groups() for p in group}
    assert ours == theirs
    for method in ("ia3", "full"):
        ((group, rate),) = build(tiny_base("llama"), method).rate_groups()
        assert rate == 1.0 and group
    with pytest.raises(ConfigError, match="rate_ratio"):
        METHODS.get("lora").Settings(rate_ratio=0.0)


def test_ranks_by_pattern_are_counted():
    adapter = build(tiny_base("llama"), "lora", rank=4, rank_pattern={"q_proj": 1, r"mlp\..*": 2})
    q, k, o, mlp = 32 + 32, 32 + 16, 32 + 32, 32 + 48
    assert adapter.trainable == 2 * (q + 4 * (2 * k + o) + 2 * 3 * mlp)
    with pytest.raises(ConfigError, match="rank is 0"):
        METHODS.get("lora").Settings(rank_pattern={"q_proj": 0})


def test_doras_dropout_acts_in_training_only():
    base = tiny_base("llama")
    adapter = tuned(base, "dora", dropout=0.5)
    with torch.no_grad():
        assert torch.equal(logits(base), logits(base))
    assert base.hooks.dropping is False or torch.is_grad_enabled()
    assert not torch.equal(logits(base), logits(base))
    adapter.detach()
    assert torch.equal(logits(base), logits(base))
