"""Adapter layers: the algebra of every variant, written out by hand, and its places."""

import pytest
import torch
from torch.nn import functional

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.methods import METHODS
from domainwright.methods.bottleneck import BottleneckSettings
from tests.methods.closed_forms import bottleneck, sizes
from tests.methods.test_method_contract import DOCS, gradients, logits, step, tuned
from tests.tiny import CONFIGS, own_logits, tiny_base

BOTTLENECK = METHODS.get("bottleneck")
VARIANTS = ("houlsby", "pfeiffer", "parallel")
PLACED = [(v, f) for v in VARIANTS for f in CONFIGS if v == "pfeiffer" or f != "mamba"]


def random(adapter):
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=source))
    return adapter


def layer_of(adapter, z, number, function, scale):
    p = dict(adapter.layers[number].named_parameters())
    middle = function(z @ p["down_MD"].T + p["down_bias_M"])
    return scale * (middle @ p["up_DM"].T + p["up_bias_D"])


@pytest.mark.parametrize("variant", [*VARIANTS, "normed"])
def test_the_algebra_of_a_block(variant):
    """x0, u, x1, w and x2 as in methods.md §0.2 and §2.1, on transformers' own parts."""
    more = {"parallel_input": "normed"} if variant == "normed" else {}
    name = "parallel" if variant == "normed" else variant
    base = tiny_base("llama")
    adapter = random(BOTTLENECK.build(base, BottleneckSettings(variant=name, **more), 0))
    block = base.model.model.layers[1]
    first = 2 if variant == "houlsby" else 1
    x0 = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(1))
    angles = base.model.model.rotary_emb(x0, torch.arange(7)[None])

    def ad(z, number=first, function=functional.relu, scale=1.0):
        return layer_of(adapter, z, number, function, scale)

    u = block.self_attn(block.input_layernorm(x0), angles, None)[0]
    if variant == "houlsby":
        u = u + ad(u, 2, functional.silu)
    x1 = x0 + u
    n2 = block.post_attention_layernorm(x1)
    w = block.mlp(n2)
    want = x1 + w
    if variant == "houlsby":
        want = want + ad(w, 3, functional.silu)
    elif variant == "pfeiffer":
        want = want + ad(want)
    else:
        want = want + ad(n2 if variant == "normed" else x1, scale=4.0)
    with adapter.attached():
        got = block(x0, position_embeddings=angles)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert (got - block(x0, position_embeddings=angles)).abs().max() > 0.1


@pytest.mark.parametrize(("variant", "family"), PLACED)
def test_every_variant_on_every_family(variant, family):
    base = tiny_base(family)
    before = logits(base)
    adapter = BOTTLENECK.build(base, BottleneckSettings(variant=variant, reduction=4), 0)
    layers = 2 if variant == "houlsby" else 1
    assert adapter.trainable == bottleneck(sizes(base), 4, layers)
    adapter.attach()
    torch.testing.assert_close(logits(base), before, rtol=0, atol=2e-5)
    assert step(base, adapter) == {n for n, _ in adapter.named_parameters()}
    alone = torch.cat([own_logits(base.model, ids) for ids in DOCS])
    torch.testing.assert_close(logits(base), alone, rtol=0, atol=2e-4)
    assert all(float(g.abs().max()) > 0 for g in gradients(base, adapter))
    adapter.detach()
    assert torch.equal(logits(base), before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_variant_is_loaded_again(variant, tmp_path):
    base = tiny_base("gemma2")
    settings = {"variant": variant, "function": "tanh", "scale": 0.5, "reduction": 3.0}
    tuned(base, "bottleneck", **settings).save(tmp_path)
    other = tiny_base("gemma2")
    adapter = BOTTLENECK.load(other, tmp_path)
    assert adapter.settings == BottleneckSettings(**settings)
    adapter.attach()
    assert torch.equal(logits(other), logits(base))


@pytest.mark.parametrize("variant", ["houlsby", "parallel"])
def test_a_base_without_a_feed_forward_part_is_refused(variant):
    with pytest.raises(CapabilityError, match="feed-forward") as caught:
        BOTTLENECK.build(tiny_base("mamba"), BottleneckSettings(variant=variant), 0)
    assert "pfeiffer" in caught.value.fix


@pytest.mark.parametrize(
    "settings", [{"variant": "serial"}, {"reduction": 0.0}, {"function": "sine"}], ids=str
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        BottleneckSettings(**settings)


def test_the_counts_of_the_house_reference():
    """methods.md §2.1, SmolLM2-135M: 30 blocks of 576; the pages' numbers, not the code's."""
    width = BottleneckSettings().width(576)
    one = 2 * width * 576 + width + 576
    assert (width, 30 * one, 60 * one) == (36, 1_262_520, 2_525_040)
