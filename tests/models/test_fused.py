"""The fused trunk gives what transformers' own forward gives, and steps aside where it does not."""

import pytest
import torch
from transformers import AttentionInterface

from domainwright.methods.lora import Lora, LoraSettings
from domainwright.models import attention, fused, native
from domainwright.models.flat import flatten
from domainwright.train.loss import summed_loss
from tests.tiny import CONFIGS, WINDOW, documents, tiny_base, tiny_model

FUSED = [f for f in CONFIGS if tiny_base(f).trunk is not None]
TREE = [None, 0, 1, 1, 0, None]
LENGTHS = (2 * WINDOW, 5, 3, 1, 9, 14)
SOME = {
    "all linear": LoraSettings(rank=3),
    "two of three": LoraSettings(rank=2, targets=("q", "v")),
    "one half": LoraSettings(rank=2, targets=("up",)),
    "output and down": LoraSettings(rank=4, targets=("o", "down")),
}


def test_the_families_of_the_house_are_fused():
    assert {"llama", "qwen2", "qwen3", "mistral"} <= set(FUSED)


def adapted(family, settings=SOME["all linear"], dtype=torch.float32, only=None):
    base = tiny_base(family, dtype)
    adapter = Lora.build(base, settings, seed=0)
    if only is not None:
        chosen = [i for i, x in enumerate(adapter.layers) if x.block == only]
        adapter.layers = [adapter.layers[i] for i in chosen]
        adapter.A = torch.nn.ParameterList([adapter.A[i] for i in chosen])
        adapter.B = torch.nn.ParameterList([adapter.B[i] for i in chosen])
    with torch.no_grad():
        for b in adapter.B:
            b.copy_(torch.linspace(-0.1, 0.1, b.numel()).view(b.shape))
    adapter.attach()
    return base, adapter


def loss_and_gradients(base, adapter, flat, targets):
    loss = summed_loss(base, flat, targets - 1, flat.ids_T[targets])
    return loss.detach(), torch.autograd.grad(loss, list(adapter.parameters()))


def compare(base, adapter, parents=()):
    flat = flatten(documents(LENGTHS), parents=parents)
    targets = torch.tensor([3, LENGTHS[0] + 2, flat.tokens - 4, flat.tokens - 1])
    got = loss_and_gradients(base, adapter, flat, targets)
    base.trunk = None
    want = loss_and_gradients(base, adapter, flat, targets)
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(got[1], want[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
        assert float(b.abs().max()) > 0


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize("targets", SOME)
@pytest.mark.parametrize("parents", [(), TREE], ids=["documents", "tree"])
def test_gradients_equal_the_generic_ones(family, targets, parents):
    compare(*adapted(family, SOME[targets]), parents)


@pytest.mark.parametrize("only", [0, 1])
def test_nothing_below_the_lowest_adapter_is_kept(only):
    base, adapter = adapted("llama", only=only)
    compare(base, adapter)
    base, adapter = adapted("llama", only=only)
    flat = flatten(documents((5,)))
    hidden = base.hidden(flat)
    assert len(hidden.grad_fn.run.kept) == 2 - only


@pytest.mark.parametrize("family", FUSED)
def test_recomputed_blocks_give_the_same_gradients(family):
    base, adapter = adapted(family)
    flat = flatten(documents(LENGTHS), parents=TREE)
    targets = torch.tensor([3, 30])
    want = loss_and_gradients(base, adapter, flat, targets)
    base.trunk.checkpointing = True
    got = loss_and_gradients(base, adapter, flat, targets)
    assert torch.equal(got[0], want[0])
    assert all(torch.equal(a, b) for a, b in zip(got[1], want[1], strict=True))


@pytest.mark.parametrize("family", FUSED)
def test_chosen_rows_are_those_of_all_rows(family):
    base, _ = adapted(family)
    flat = flatten(documents(LENGTHS))
    chosen = torch.tensor([7, 0, flat.tokens - 1])
    with torch.no_grad():
        torch.testing.assert_close(
            base.hidden(flat, chosen), base.hidden(flat)[chosen], rtol=1e-5, atol=1e-5
        )


def test_stacked_weights_are_the_bases_own():
    base, model = tiny_base("qwen2"), tiny_model("qwen2")
    for name, value in model.state_dict().items():
        assert torch.equal(base.model.state_dict()[name], value), name
    stack = base.trunk.blocks[0].attention
    query = stack.linears[0].module
    assert query.weight.data_ptr() == stack.weight_OI.data_ptr()  # one copy in memory
    assert query.bias is not None and stack.bias_O is not None


def test_two_readings_before_one_gradient_do_not_disturb_each_other():
    base, adapter = adapted("llama")
    one, two = flatten(documents((9, 4))), flatten(documents((6,), seed=1))
    targets = torch.tensor([2, 5])
    alone = [loss_and_gradients(base, adapter, f, targets)[1] for f in (one, two)]
    losses = [summed_loss(base, f, targets - 1, f.ids_T[targets]) for f in (one, two)]
    together = torch.autograd.grad(losses[0] + losses[1], list(adapter.parameters()))
    for a, b, c in zip(*alone, together, strict=True):
        torch.testing.assert_close(a + b, c)


def test_a_second_gradient_of_one_reading_is_refused():
    base, adapter = adapted("llama")
    out = base.hidden(flatten(documents((5,)))).sum()
    torch.autograd.grad(out, list(adapter.parameters()), retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        torch.autograd.grad(out, list(adapter.parameters()))


PLACES = ("a norm", "a block", "more keys", "moved positions", "other weights", "its input")
"""Hook points that the fused trunk does not compute."""


class _Elsewhere:
    shift = 3

    def __call__(self, *given):
        return given[-1] if given else torch.zeros(2, 2, 1, 8).unbind()

    def before(self, x):
        return 2 * x


def hang(base, why):
    hooks = base.hooks
    points = dict(zip(PLACES, ("norm", "block", "attention", "position"), strict=False))
    if why in points:
        place = hooks.at(points[why])[0].path
        # Not an object with `before`, which only linear layers know.
        hooks.add(place, lambda *a: _Elsewhere()(*a) if why == "more keys" else a[-1])
        if why == "moved positions":
            hooks.remove(hooks.on(place)[0][0])
            hooks.add(place, _Elsewhere())
    elif why == "other weights":
        name = "model.layers.0.self_attn.q_proj.weight"
        hooks.replace(name, torch.nn.Parameter(base.model.get_parameter(name) + 1), None)
    elif why == "its input":
        hooks.add(hooks.linears[0].path, _Elsewhere())


@pytest.mark.parametrize(
    "why", ["dropout", "two adapters", "another hook", "a trained base", *PLACES]
)
def test_whatever_is_no_known_pattern_takes_the_generic_path(why):
    settings = LoraSettings(rank=2, dropout=0.5 if why == "dropout" else 0.0)
    base, _ = adapted("llama", settings)
    flat = flatten(documents((5, 4)))
    assert base.trunk.hidden(flat, None) is not None or why == "dropout"
    if why == "two adapters":
        Lora.build(base, settings, seed=1).attach()
    if why == "another hook":
        base.hooks.add(base.hooks.linears[-1].path, lambda x, out: 2 * out)
    if why == "a trained base":
        base.model.model.norm.weight.requires_grad_()
    hang(base, why)
    assert base.trunk.hidden(flat, None) is None
    assert base.hidden(flat).requires_grad
    with base.hooks.disabled(), torch.no_grad():
        assert why == "a trained base" or base.trunk.hidden(flat, None) is not None


def test_a_block_that_computes_something_else_is_not_fused(monkeypatch):
    model = tiny_model("llama")
    attend = AttentionInterface()[attention.NAME]

    def other(module, query, *args, **more):
        return attend(module, 1.1 * query, *args, **more)

    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, other)
    base = tiny_base("llama")
    model.set_attn_implementation(attention.NAME)
    assert fused.recognise(model, base.hooks.__class__(model)) is None


@pytest.mark.skipif(native.library() is None, reason=f"no native kernels: {native.reason()}")
@pytest.mark.parametrize("family", FUSED)
def test_bfloat16_kernels_are_as_near_to_float32_as_the_generic_path(family):
    """The same masters, so that the only difference is rounding."""
    wide = {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    flat = flatten(documents(LENGTHS), parents=TREE)
    targets = torch.tensor([3, 20, flat.tokens - 1])

    def run(dtype, fast):
        base = tiny_base(family, dtype, **wide)
        adapter = Lora.build(base, LoraSettings(rank=4), seed=0)
        adapter.attach()
        with torch.no_grad():
            for b in adapter.B:
                b.copy_(torch.linspace(-0.1, 0.1, b.numel()).view(b.shape))
        assert base.trunk is not None
        if not fast:
            base.trunk = None
        loss, gradients = loss_and_gradients(base, adapter, flat, targets)
        return loss, torch.cat([g.flatten() for g in gradients])

    want, want_gradient = run(torch.float32, False)
    plain, plain_gradient = run(torch.bfloat16, False)
    fast, fast_gradient = run(torch.bfloat16, True)

    def distance(gradient):
        return float((gradient - want_gradient).norm() / want_gradient.norm())

    assert distance(fast_gradient) < 1.5 * distance(plain_gradient) + 1e-3
    assert abs(fast - want) < abs(plain - want) + 0.05 * want
