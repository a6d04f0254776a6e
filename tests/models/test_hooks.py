"""Hook points: where they are, that they add up, and that without them nothing changed."""

import pytest
import torch
from torch import nn

from domainwright.core.errors import CapabilityError
from domainwright.models import hooks
from domainwright.models.flat import flatten
from domainwright.models.lowrank import LowRank, adapted
from domainwright.models.points import Linear, enters_feed_forward, find_linears, summed
from tests.tiny import CONFIGS, documents, tiny_base, tiny_model

LLAMA = {"q": 32, "k": 16, "v": 16, "o": 32, "gate": 48, "up": 48, "down": 32}


def logits(base):
    flat = flatten(documents((7, 4)))
    return base.logits(flat, torch.arange(flat.tokens))


def low_rank(linear, rank=3, scale=0.7, dropout=0.0, seed=0):
    source = torch.Generator().manual_seed(seed)
    a = nn.Parameter(torch.randn(rank, linear.inputs, generator=source) / linear.inputs**0.5)
    b = nn.Parameter(torch.randn(linear.outputs, rank, generator=source))
    return LowRank(a, b, scale, dropout)


def test_the_points_of_llama():
    linears = find_linears(tiny_model("llama"))
    assert [(x.block, x.point) for x in linears] == [(n, p) for n in (0, 1) for p in LLAMA]
    assert {x.point: x.outputs for x in linears} == LLAMA
    assert {x.point: x.inputs for x in linears} == {p: 48 if p == "down" else 32 for p in LLAMA}
    assert linears[-1].path == "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("family", "points"),
    [
        ("gpt2", ["qkv", "o", "up", "down"]),
        ("gpt_neox", ["qkv", "o", "up", "down"]),
        ("phi", ["q", "k", "v", "o", "up", "down"]),
        ("phi3", ["o", "qkv", "gate_up", "down"]),
        ("mamba", ["in_proj", "x_proj", "o"]),
    ],
)
def test_the_points_of_other_families(family, points):
    linears = find_linears(tiny_model(family))
    assert [x.point for x in linears if x.block == 1] == points


@pytest.mark.parametrize("family", CONFIGS)
def test_every_linear_layer_but_the_head_is_found(family):
    model = tiny_model(family)
    head = model.get_output_embeddings()
    paths = {x.path for x in find_linears(model)}
    linears = {
        name: module
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and module is not head
    }
    called = set()
    for name, module in linears.items():
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
    model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)
    # Mamba reads the weight of dt_proj without calling it: no hook would ever run there.
    assert paths == called == {n for n in linears if not n.endswith("dt_proj")}
    for linear in find_linears(model):
        assert linear.module is model.get_submodule(linear.path)
        assert linear.transposed == (family == "gpt2")
        x = torch.randn(3, linear.inputs)
        bias = 0 if linear.module.bias is None else linear.module.bias
        torch.testing.assert_close(linear.module(x), x @ linear.weight_OI.T + bias)


def test_the_largest_outer_list_holds_the_blocks():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.small = nn.ModuleList([nn.Linear(2, 2)])
            self.blocks = nn.ModuleList(Block() for _ in range(2))

    linears = find_linears(Model())
    assert len(linears) == 10 and linears[7].path == "blocks.1.experts.2"
    with pytest.raises(CapabilityError, match="no list of blocks"):
        find_linears(nn.Linear(2, 2))


@pytest.mark.parametrize("family", CONFIGS)
def test_disabled_and_removed_hooks_leave_the_base_bit_for_bit(family):
    base = tiny_base(family)
    before = logits(base)
    hooks = [low_rank(x) for x in base.hooks.linears]
    for linear, hook in zip(base.hooks.linears, hooks, strict=True):
        base.hooks.add(linear.path, hook)
    adapted = logits(base)
    assert not torch.allclose(adapted, before, atol=1e-2)
    with base.hooks.disabled():
        with base.hooks.disabled():
            assert torch.equal(logits(base), before)
        assert torch.equal(logits(base), before)
    assert torch.equal(logits(base), adapted)
    for hook in hooks:
        base.hooks.remove(hook)
    assert torch.equal(logits(base), before)
    assert all("forward" not in vars(x.module) for x in base.hooks.linears)


def test_an_error_inside_disabled_switches_the_hooks_on_again():
    base = tiny_base()
    base.hooks.add(base.hooks.linears[0].path, low_rank(base.hooks.linears[0]))
    adapted = logits(base)
    with pytest.raises(RuntimeError), base.hooks.disabled():
        raise RuntimeError
    assert torch.equal(logits(base), adapted)


def test_hooks_of_one_layer_add_up_and_leave_one_by_one():
    base = tiny_base()
    linear = base.hooks.linears[3]
    x = torch.randn(5, linear.inputs)
    first, second = low_rank(linear, seed=1), low_rank(linear, seed=2)
    base.hooks.add(linear.path, first)
    base.hooks.add(linear.path, lambda x, out: out + 1)
    base.hooks.add(linear.path, second)
    plain = x @ linear.weight_OI.T
    changes = [0.7 * x @ h.A_RI.T @ h.B_OR.T for h in (first, second)]
    torch.testing.assert_close(linear.module(x), plain + changes[0] + 1 + changes[1])
    base.hooks.remove(first)
    torch.testing.assert_close(linear.module(x), plain + 1 + changes[1])
    base.hooks.remove(first)
    base.hooks.remove(second)
    torch.testing.assert_close(linear.module(x), plain + 1)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("frozen_input", [False, True])
def test_the_fused_kernel_equals_the_plain_hook(family, frozen_input):
    """Values and all gradients; qwen2's q has a bias, GPT-2 stores its weight transposed."""
    base = tiny_base(family)
    linear = next(x for x in base.hooks.linears if x.point in ("q", "qkv"))
    assert (linear.module.bias is not None) == (family != "llama")
    hook = low_rank(linear)
    source = torch.Generator().manual_seed(3)
    start = torch.randn(2, 5, linear.inputs, generator=source)
    up = torch.randn(2, 5, linear.outputs, generator=source)

    def run(fused):
        x = start.clone().requires_grad_(not frozen_input)
        out = adapted(linear, hook, x) if fused else hook(x, linear.module(x))
        wanted = [hook.A_RI, hook.B_OR] + ([] if frozen_input else [x])
        return out, *torch.autograd.grad((out * up).sum(), wanted)

    assert "forward" not in vars(linear.module)
    for got, want in zip(run(True), run(False), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_the_fused_kernel_passes_gradcheck():
    source = torch.Generator().manual_seed(4)
    x, weight, a, b = (
        torch.randn(*shape, generator=source, dtype=torch.float64)
        for shape in ((3, 4), (5, 4), (2, 4), (5, 2))
    )
    x.requires_grad_()

    module = nn.Linear(4, 5, bias=False, dtype=torch.float64)
    module.weight = nn.Parameter(weight, requires_grad=False)
    linear = Linear("only", 0, "q", module, 4, 5, False)
    change = LowRank(nn.Parameter(a), nn.Parameter(b), 0.5)

    def kernel(x):
        return adapted(linear, change, x)

    assert torch.autograd.gradcheck(kernel, (x,))


def test_only_the_first_low_rank_hook_is_fused_and_dropout_never(monkeypatch):
    base = tiny_base()
    linear = base.hooks.linears[0]
    calls = []
    monkeypatch.setattr(hooks, "adapted", lambda *a: (calls.append(1), adapted(*a))[1])
    hook = low_rank(linear, dropout=0.5)
    base.hooks.add(linear.path, hook)
    x = torch.randn(400, linear.inputs)
    torch.manual_seed(0)
    dropped = linear.module(x)
    assert not calls
    torch.manual_seed(0)
    kept = nn.functional.dropout(x, 0.5)
    want = x @ linear.weight_OI.T + 0.7 * kept @ hook.A_RI.T @ hook.B_OR.T
    torch.testing.assert_close(dropped, want, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        whole = linear.module(x)
    assert calls == [1]
    torch.testing.assert_close(
        whole, x @ linear.weight_OI.T + 0.7 * x @ hook.A_RI.T @ hook.B_OR.T, rtol=1e-4, atol=1e-5
    )


def test_bfloat16_bases_keep_float32_masters():
    base = tiny_base("llama", torch.bfloat16)
    linear = base.hooks.linears[0]
    hook = low_rank(linear)
    base.hooks.add(linear.path, hook)
    x = torch.randn(6, linear.inputs, dtype=torch.bfloat16)
    out = linear.module(x)
    assert out.dtype == torch.bfloat16
    with torch.no_grad():
        plain = hook(x, nn.functional.linear(x, linear.weight_OI))
    torch.testing.assert_close(out, plain, rtol=3e-2, atol=3e-2)
    out.float().sum().backward()
    assert hook.A_RI.grad.dtype == hook.B_OR.grad.dtype == torch.float32


SITES = {
    # norms a block, last norm, modules that read positions, attention modules a block
    "llama": (2, "model.norm", "model.rotary_emb", 1),
    "qwen2": (2, "model.norm", "model.rotary_emb", 1),
    "qwen3": (4, "model.norm", "model.rotary_emb", 1),
    "mistral": (2, "model.norm", "model.rotary_emb", 1),
    "gemma": (2, "model.norm", "model.rotary_emb", 1),
    "gemma2": (4, "model.norm", "model.rotary_emb", 1),
    "phi": (1, "model.final_layernorm", "model.rotary_emb", 1),
    "phi3": (2, "model.norm", "model.rotary_emb", 1),
    "gpt2": (2, "transformer.ln_f", "transformer.wpe", 1),
    "gpt_neox": (2, "gpt_neox.final_layer_norm", "gpt_neox.rotary_emb", 1),
    "mamba": (1, "backbone.norm_f", None, 0),
}
PARTS = {
    # what attention adds, what the feed-forward part adds, the norm that the latter reads
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm") + ("pre_feedforward_",),
    "phi": ("self_attn.dense", "mlp.fc2", "input_layernorm"),
    "gpt2": ("attn.c_proj", "mlp.c_proj", "ln_2"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h", "post_attention_layernorm"),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_the_places_beside_the_linear_layers(family):
    hooks = tiny_base(family).hooks
    norms, last, position, attention = SITES[family]
    assert [s.block for s in hooks.at("norm")].count(1) == norms
    assert [s.path for s in hooks.at("norm") if s.block is None] == [last]
    assert [s.path for s in hooks.at("position")] == ([position] if position else [])
    assert [s.block for s in hooks.at("attention")] == [0, 1] * attention
    assert [s.block for s in hooks.at("block")] == [0, 1]
    if family == "mamba":
        for part in ("attention", "feed_forward"):
            with pytest.raises(CapabilityError, match="no single"):
                summed(hooks.linears, hooks.sites, 0, part)
        with pytest.raises(CapabilityError, match="no norm in front"):
            enters_feed_forward(hooks.sites, 0)
        return
    wanted = PARTS.get(family, ("self_attn.o_proj", "mlp.down_proj", ".1.post_attention_layernorm"))
    got = [summed(hooks.linears, hooks.sites, 1, p) for p in ("attention", "feed_forward")]
    got.append(enters_feed_forward(hooks.sites, 1))
    assert all(want in path and ".1." in path for want, path in zip(wanted, got, strict=True))


@pytest.mark.parametrize("family", CONFIGS)
def test_what_is_added_is_what_the_residual_sum_reads(family):
    """x2 - x0 of a block is the sum of both parts, as their places give them."""
    if family == "mamba":
        return
    base = tiny_base(family)
    hooks, seen = base.hooks, {}

    def keep(name):
        def hook(x, out):
            seen[name] = (x, out)
            return out

        return hook

    for part in ("attention", "feed_forward"):
        hooks.add(summed(hooks.linears, hooks.sites, 1, part), keep(part))
    hooks.add("".join(s.path for s in hooks.at("block") if s.block == 1), keep("block"))
    hooks.add(enters_feed_forward(hooks.sites, 1), keep("norm"))
    logits(base)
    x0, x2 = seen["block"]
    u, w = seen["attention"][1], seen["feed_forward"][1]
    torch.testing.assert_close(x2, x0 + u + w, rtol=1e-4, atol=1e-4)
    stream = x0 if family in ("phi", "gpt_neox") else x0 + u
    torch.testing.assert_close(seen["norm"][0], stream, rtol=1e-4, atol=1e-4)


def test_a_changed_input_reaches_the_layer_and_not_the_hooks():
    base = tiny_base()
    linear = base.hooks.linears[0]

    class Half:
        def before(self, x):
            return x / 2

    x = torch.randn(5, linear.inputs)
    hook, half, seen = low_rank(linear), Half(), []
    base.hooks.add(linear.path, half)
    base.hooks.add(linear.path, lambda x, out: (seen.append(x), out)[1])
    torch.testing.assert_close(linear.module(x), x / 2 @ linear.weight_OI.T)
    base.hooks.remove(half)
    base.hooks.add(linear.path, hook)
    torch.testing.assert_close(
        linear.module(x), x @ linear.weight_OI.T + 0.7 * x @ hook.A_RI.T @ hook.B_OR.T
    )


def test_a_stand_in_is_read_everywhere_and_leaves_no_trace():
    base = tiny_base()
    name = "model.layers.0.input_layernorm.weight"
    norm = base.model.model.layers[0].input_layernorm
    kind, own, keys = type(norm), norm.weight, set(base.model.state_dict())
    value = nn.Parameter(torch.full_like(own, 3.0))
    owner = object()
    base.hooks.replace(name, value, owner)
    assert norm.weight is value and type(norm).__name__ == kind.__name__
    assert base.model.state_dict()[name] is not value and set(base.model.state_dict()) == keys
    assert isinstance(norm, kind) and base.hooks.beyond_linears
    with base.hooks.disabled():
        assert norm.weight is own and not base.hooks.beyond_linears
    with base.hooks.owning({}):
        assert norm.weight is own
    with (
        base.hooks.owning({owner: slice(0, 2), "other": slice(2, 4)}),
        pytest.raises(CapabilityError, match="cannot share a flat batch"),
    ):
        norm.weight  # noqa: B018
    base.hooks.restore(owner)
    assert type(norm) is kind and norm.weight is own


@pytest.mark.parametrize("key", ["weight", "bias"])
def test_a_layer_whose_own_weights_are_trained_gets_its_gradient_beside_a_low_rank_change(key):
    base = tiny_base("qwen2")
    linear = base.hooks.linears[0]
    assert linear.module.bias is not None
    own = nn.Parameter(getattr(linear.module, key).detach().clone())
    base.hooks.add(linear.path, low_rank(linear))
    base.hooks.replace(f"{linear.path}.{key}", own, owner=base)
    x = torch.randn(5, linear.inputs)
    linear.module(x).sum().backward()
    want = x.sum(0).expand(linear.outputs, -1) if key == "weight" else torch.full_like(own, 5.0)
    torch.testing.assert_close(own.grad, want)
