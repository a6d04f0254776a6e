"""Adapter layers: the algebra of every variant, written out by hand, and its places."""

import json

import pytest
import torch
from torch.nn import functional

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS
from domainwright.methods.bottleneck import BottleneckSettings
from domainwright.methods.compacter import CompacterSettings
from domainwright.train.recompute import recomputed
from tests.methods.closed_forms import bottleneck, compacter, norms, prefix, sizes
from tests.methods.test_method_contract import DOCS, build, gradients, logits, step, tuned
from tests.tiny import CONFIGS, own_logits, tiny_base
from tests.train.runs import make_job
from tests.train.stopped import same_after_a_stop

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
    settings |= {"initial": "bert", "drop_random": True}
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
    "settings",
    [
        {"variant": "serial"},
        {"reduction": 0.0},
        {"function": "sine"},
        {"initial": "random"},
        {"drop_first": -1},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        BottleneckSettings(**settings)


def test_the_counts_of_the_house_reference():
    """methods.md §2.1, SmolLM2-135M: 30 blocks of 576; the pages' numbers, not the code's."""
    width = BottleneckSettings().width(576)
    one = 2 * width * 576 + width + 576
    assert (width, 30 * one, 60 * one) == (36, 1_262_520, 2_525_040)


@pytest.mark.parametrize(("initial", "spread"), [("houlsby", 0.01), ("bert", 0.02)])
def test_starts_near_the_base(initial, spread):
    base = tiny_base("llama")
    bare = logits(base)
    settings = {"variant": "houlsby", "reduction": 1.0, "initial": initial}
    adapter = build(base, "bottleneck", **settings)
    with adapter.attached():
        change = float((logits(base) - bare).detach().abs().max())
    assert 1e-5 < change < 0.1
    for layer in adapter.layers:
        for matrix in (layer.down_MD, layer.up_DM):
            # Cut at two deviations, a normal distribution has 0.88 of its spread.
            expected = spread * (0.88 if initial == "houlsby" else 1.0)
            assert float(matrix.detach().std()) == pytest.approx(expected, rel=0.1)
            if initial == "houlsby":
                assert float(matrix.detach().abs().max()) <= 0.02
        assert not layer.down_bias_M.any() and not layer.up_bias_D.any()


def test_the_norms_learn_too():
    """The faithful form of Houlsby et al.: gains of all norms beside the layers."""
    base = tiny_base("gpt2")
    frozen = {k: v.clone() for k, v in base.model.state_dict().items()}
    bare = logits(base)
    adapter = build(base, "bottleneck", variant="houlsby", train_layernorm=True)
    s = sizes(base)
    assert adapter.trainable == bottleneck(s, 16, 2) + 2 * norms(s)
    adapter.attach()
    torch.testing.assert_close(logits(base), bare, rtol=0, atol=2e-5)
    assert step(base, adapter) == {n for n, _ in adapter.named_parameters()}
    state = base.model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in frozen.items())
    adapter.detach()
    assert torch.equal(logits(base), bare)


def differentiated(base):
    """Whether each block's output has a gradient to pass on, in one reading."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda *a: seen.append(a[2].requires_grad))
        for layer in base.model.model.layers
    ]
    logits(base)
    for hook in hooks:
        hook.remove()
    return seen


def test_first_blocks_without_layers_are_the_base_and_are_not_differentiated():
    base = tiny_base("llama", num_hidden_layers=4)
    # The fused trunk never calls the blocks, whose outputs are looked at here.
    base.trunk = None
    outputs = []
    base.model.model.layers[1].register_forward_hook(lambda *a: outputs.append(a[2].detach()))
    logits(base)
    for first in (2, 0):
        adapter = tuned(base, "bottleneck", variant="houlsby", drop_first=first)
        assert len(adapter.layers) == 2 * (4 - first)
        assert differentiated(base) == [False] * first + [True] * (4 - first)
        assert torch.equal(outputs[-1], outputs[0]) == (first == 2)
        adapter.detach()
    with pytest.raises(ConfigError, match="has 2 blocks"):
        build(tiny_base("llama"), "bottleneck", drop_first=2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_robust_adapterdrop_leaves_out_what_the_step_says(variant):
    """K of a step from its seed; the lowest block differentiated tells it."""
    base = tiny_base("llama", num_hidden_layers=4)
    adapter = build(base, "bottleneck", variant=variant, drop_random=True, drop_first=1)
    adapter.attach()
    step(base, adapter)
    found = []
    for number in range(12):
        torch.manual_seed(derive(5, "step", number))
        seen = differentiated(base)
        assert seen == sorted(seen)
        with recomputed(base):
            again = torch.autograd.grad(
                logits(base).sum(), list(adapter.parameters()), allow_unused=True
            )
        reached = {n for n, g in zip(adapter.state_dict(), again, strict=True) if g is not None}
        layers = 2 if variant == "houlsby" else 1
        lowest = min(int(n.split(".")[1]) // layers for n in reached) + 1
        assert seen == [block >= lowest for block in range(4)]
        found.append(lowest)
    assert set(found) == {1, 2, 3}
    # Answers use all of them, whatever the seed.
    with torch.no_grad():
        want = logits(base)
        torch.manual_seed(0)
        assert torch.equal(logits(base), want)


def test_a_run_with_adapterdrop_resumes_bit_for_bit(tmp_path):
    def job(folder):
        base = tiny_base(num_hidden_layers=3)
        adapter = build(base, "bottleneck", drop_random=True, reduction=4.0)
        return make_job(folder, base=base, adapter=adapter, recompute=True)

    same_after_a_stop(job, tmp_path)


@pytest.mark.parametrize("plus", [False, True])
def test_compacter_is_a_sum_of_kronecker_products(plus):
    base = tiny_base("llama")
    adapter = random(build(base, "compacter", plus=plus, reduction=4.0))
    rule = adapter.rule_NNN
    z = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))

    def dense(product):
        pairs = zip(rule, product.left_NI, product.right_NO, strict=True)
        return sum(torch.kron(a, torch.outer(s, t)) for a, s, t in pairs)

    for (_, hook), layer in zip(adapter.places(), adapter.layers, strict=True):
        middle = functional.gelu(z @ dense(layer.down) + layer.down.bias_O)
        want = z + middle @ dense(layer.up) + layer.up.bias_O
        torch.testing.assert_close(hook(z, z), want, rtol=1e-4, atol=1e-4)
    assert len(adapter.layers) == (2 if plus else 4)
    assert adapter.trainable == 2 * (1 if plus else 2) * 3 * (32 + 8) + 64


def test_the_counts_of_compacter():
    """methods.md §2.1 counts the layers; the shared rule has 4³ = 64 numbers beside."""
    width = CompacterSettings().width(576)
    assert (width, 30 * 3 * (576 + width), 60 * 3 * (576 + width)) == (16, 53_280, 106_560)
    assert CompacterSettings(reduction=32.0).width(32) == 4
    assert CompacterSettings(reduction=10.0, products=3).width(60) == 6


def test_widths_are_those_of_the_library(tmp_path):
    """It divides and rounds down in one step, and compacter's file must give it the width."""
    assert BottleneckSettings(reduction=28.8).width(576) == 576 // 28.8 == 19
    base = tiny_base("llama", hidden_size=48)
    for products in (2, 3, 4, 6):
        adapter = build(base, "compacter", reduction=1.5, products=products)
        adapter.save(tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())["config"]
        assert int(48 // config["reduction_factor"]) == adapter.settings.width(48)


@pytest.mark.parametrize("family", list(CONFIGS))
def test_compacter_plus_goes_on_every_family(family):
    base = tiny_base(family)
    bare = logits(base)
    adapter = build(base, "compacter", plus=True)
    assert adapter.trainable == compacter(sizes(base), layers=1)
    adapter.attach()
    torch.testing.assert_close(logits(base), bare, rtol=0, atol=2e-5)
    assert step(base, adapter) == {n for n, _ in adapter.named_parameters()}


def test_compacter_in_sizes_that_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="no multiple"):
        build(tiny_base(), "compacter", products=5)
    for wrong in ({"products": 0}, {"reduction": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            CompacterSettings(**wrong)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_mix_and_match_is_a_prefix_with_parallel_layers(family):
    """The two methods on one base, with the same numbers in them."""
    base = tiny_base(family)
    both = tuned(base, "mix_and_match", rows=7, reduction=4.0)
    s = sizes(base)
    assert both.trainable == prefix(s, 7) + bottleneck(s, 4)
    want = logits(base).detach()
    both.detach()
    ahead = build(base, "prefix", rows=7)
    settings = {"variant": "parallel", "parallel_input": "normed", "reduction": 4.0}
    layers = build(base, "bottleneck", **settings)
    ahead.load_state_dict(both.prefix.state_dict())
    layers.load_state_dict(both.layers.state_dict())
    with ahead.attached(), layers.attached():
        torch.testing.assert_close(logits(base), want, rtol=0, atol=1e-5)
    (_, first), (_, second) = both.rate_groups()
    assert (first, second) == (1.0, 20.0)
