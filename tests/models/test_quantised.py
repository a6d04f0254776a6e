"""A base in 4 bits computes as one of the dequantised weights, in a quarter of their memory."""

import gc
import weakref

import pytest
import torch

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.infer.generate import answer
from domainwright.methods import METHODS
from domainwright.methods.lora import Lora, LoraSettings
from domainwright.models import kernels, native, quantised
from domainwright.models.base import load_base, prepare
from domainwright.models.flat import flatten
from domainwright.models.four_bit import Codes, quantise
from domainwright.models.hooks import Hooks
from domainwright.models.quantised import Quantised, product
from domainwright.models.stand_in import (
    StandIn,
    codes_of,
    dequantised_parameters,
    quantise_linears,
)
from domainwright.train.loss import summed_loss
from domainwright.train.recompute import recomputed
from tests.methods.test_method_contract import answer_without_cache
from tests.tiny import CONFIGS, documents, tiny_base, tiny_folder, tiny_model, tiny_tokenizer

DOCS = documents((9, 4, 13))
RANK_3 = LoraSettings(rank=3)
WIDE = {"hidden_size": 128, "intermediate_size": 192}


def quantised_base(family="llama", dtype=torch.float32, kind="nf4", double=True, **changes):
    like = tiny_base(family, dtype, **changes)
    model = tiny_model(family, dtype, **changes)
    quantise_linears(model, kind, double=double)
    return prepare(model, tiny_tokenizer(), like.source, like.sha256)


def dense_twin(family="llama", dtype=torch.float32, kind="nf4", double=True, **changes):
    """A full-precision base of the dequantised weights."""
    base = tiny_base(family, dtype, **changes)
    for linear in base.hooks.linears:
        codes = quantise(linear.weight_OI, kind, double=double)
        linear.weight_OI.copy_(codes.dequantised(dtype))
    return base


def adapted(base, settings=RANK_3):
    adapter = Lora.build(base, settings, 0)
    with torch.no_grad():
        for b in adapter.B:
            b.copy_(torch.linspace(-0.1, 0.1, b.numel()).view(b.shape))
    adapter.attach()
    return adapter


def loss_and_gradients(base, adapter, docs=DOCS):
    flat = flatten(docs)
    rows = torch.arange(flat.tokens - 1)
    loss = summed_loss(base, flat, rows, flat.ids_T[1:])
    return loss.detach(), torch.autograd.grad(loss, list(adapter.parameters()))


@pytest.mark.parametrize(("family", "kind"), [*((f, "nf4") for f in CONFIGS), ("gpt2", "fp4")])
def test_a_quantised_base_is_the_base_of_the_dequantised_weights(family, kind):
    base, twin = quantised_base(family, kind=kind), dense_twin(family, kind=kind)
    assert base.quantised == (kind, True) and twin.quantised is None
    assert (base.trunk is None) == (twin.trunk is None) and base.feeding == twin.feeding
    assert base.parameters == twin.parameters
    assert [x.path for x in base.hooks.linears] == [x.path for x in twin.hooks.linears]
    for mine, other in zip(base.hooks.linears, twin.hooks.linears, strict=True):
        assert (mine.inputs, mine.outputs, mine.point) == (
            other.inputs,
            other.outputs,
            other.point,
        )
        assert torch.equal(mine.weight_OI, other.weight_OI)
    for name, weight in dequantised_parameters(base.hooks.linears):
        assert torch.equal(weight, twin.model.get_parameter(name))
    got = loss_and_gradients(base, adapted(base))
    want = loss_and_gradients(twin, adapted(twin))
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(got[1], want[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()) + 1e-9)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("settings", [{}, {"targets": ("q", "up")}, {"targets": ("down",)}])
def test_the_fused_trunk_equals_the_generic_path(family, settings):
    base = quantised_base(family)
    adapter = adapted(base, LoraSettings(rank=3, **settings))
    got = loss_and_gradients(base, adapter)
    with recomputed(base):
        again = loss_and_gradients(base, adapter)
    trunk, base.trunk = base.trunk, None
    assert trunk is not None
    want = loss_and_gradients(base, adapter)
    for found in (got, again):
        torch.testing.assert_close(found[0], want[0], rtol=1e-5, atol=1e-5)
        for a, b in zip(found[1], want[1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_bfloat16_gives_the_twins_gradients():
    base = quantised_base(dtype=torch.bfloat16, **WIDE)
    twin = dense_twin(dtype=torch.bfloat16, **WIDE)
    got = loss_and_gradients(base, adapted(base))
    want = loss_and_gradients(twin, adapted(twin))
    assert torch.equal(got[0], want[0])
    assert all(torch.equal(a, b) for a, b in zip(got[1], want[1], strict=True))


def storage(module):
    tensors = [*module.parameters(), *module.buffers()]
    return sum(x.untyped_storage().nbytes() for x in tensors)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_codes_are_the_only_copy_in_memory(family):
    changes = {"n_embd": 256} if family == "gpt2" else {**WIDE, "hidden_size": 256}
    model = tiny_model(family, torch.bfloat16, **changes)
    gone = [weakref.ref(x.module.weight) for x in Hooks(model).linears]
    quantise_linears(model, "nf4", double=True)
    gc.collect()
    assert not any(ref() is not None for ref in gone)
    base = prepare(model, tiny_tokenizer(), tiny_base(family).source, "0" * 64)
    loss_and_gradients(base, adapted(base))  # nothing is kept by computing either
    held = weights = 0
    for linear in base.hooks.linears:
        bias = linear.module.bias
        held += storage(linear.module) - (0 if bias is None else bias.untyped_storage().nbytes())
        weights += linear.inputs * linear.outputs
    assert held / weights <= 0.53
    assert not any("weight" in k for x in base.hooks.linears for k in x.module.state_dict())


@pytest.mark.parametrize("fused", [False, True])
def test_nothing_of_a_weights_size_waits_for_the_backward_pass(fused):
    base = quantised_base(hidden_size=256, intermediate_size=512)
    if not fused:
        base.trunk = None
    adapted(base, LoraSettings(rank=2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        base.hidden(flatten([DOCS[0]]))
    assert kept and max(kept) < 256 * 256 / 2


def test_a_layer_by_itself_and_its_bias():
    weight, bias = torch.randn(24, 40), torch.randn(24).requires_grad_()
    codes = quantise(weight, "nf4")
    x = torch.randn(2, 3, 40).requires_grad_()
    pull = torch.randn(2, 3, 24)
    want = torch.nn.functional.linear(x, codes.dequantised(torch.float32), bias)
    wanted = torch.autograd.grad(want, [x, bias], pull)
    got = product(x, codes, bias)
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(got, [x, bias], pull), wanted, strict=True):
        torch.testing.assert_close(a, b)
    module = Quantised(codes, None, torch.float32)
    torch.testing.assert_close(module(x), want - bias)
    assert not module(x.detach()).requires_grad


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "mamba"])
def test_answers_with_the_cache_equal_answers_without(family):
    base = quantised_base(family)
    adapter = adapted(base)
    got = answer(base, DOCS, new_tokens=8)
    assert [a.ids for a in got] == answer_without_cache(base, DOCS, 8)
    adapter.detach()
    bare = [a.ids for a in answer(base, DOCS, new_tokens=4)]
    assert bare == [a.ids for a in answer(dense_twin(family), DOCS, new_tokens=4)]


def test_one_token_at_a_time_through_the_trunk():
    sizes = {**WIDE, "num_attention_heads": 4, "num_key_value_heads": 2}
    base = quantised_base(dtype=torch.bfloat16, **sizes)
    twin = dense_twin(dtype=torch.bfloat16, **sizes)
    got = [a.ids for a in answer(base, DOCS, new_tokens=8)]
    assert got == [a.ids for a in answer(twin, DOCS, new_tokens=8)]


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_trains_on_codes_or_says_that_it_cannot(name):
    family = "gpt2" if name == "bitfit" else "llama"
    base, twin = quantised_base(family), dense_twin(family)
    method = METHODS.get(name)
    try:
        adapter = method.build(base, method.Settings(), 0)
    except CapabilityError as error:
        assert name in ("full", "top_layers")
        assert "was loaded in 4 bits" in error.cause and "qlora" in error.fix
        return
    adapter.attach()
    got = loss_and_gradients(base, adapter)
    # qlora on the twin would quantise once more.
    other = METHODS.get("lora" if name == "qlora" else name)
    settings = LoraSettings() if name == "qlora" else other.Settings()
    beside = other.build(twin, settings, 0)
    beside.attach()
    want = loss_and_gradients(twin, beside)
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-4)
    for a, b in zip(got[1], want[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-9)
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_owners_share_a_batch_over_codes(fused):
    base = quantised_base()
    if not fused:
        base.trunk = None
    flat, chosen = flatten(DOCS), torch.tensor([3, 11, 20])
    owners = [Lora.build(base, LoraSettings(rank=r), 0) for r in (2, 5)]
    want = []
    for owner in owners:
        torch.nn.init.normal_(owner.B[3], std=0.3)
        with owner.attached():
            want.append(base.hidden(flat, chosen).detach())
    for owner in owners:
        owner.attach()
    got = base.hidden_of_each(owners, flat, chosen)
    assert not torch.allclose(want[0], want[1])
    torch.testing.assert_close(got, torch.stack(want), rtol=0, atol=1e-5)


def test_owners_with_and_without_stand_ins_share_a_batch():
    base = tiny_base()
    flat, chosen = flatten(DOCS), torch.tensor([3, 11, 20])
    kinds = ("qlora", {}), ("lora", {}), ("qlora", {"quantise": "fp4"})
    owners, want = [], []
    for name, settings in kinds:
        method = METHODS.get(name)
        owner = method.build(base, method.Settings(**settings), 0)
        torch.nn.init.normal_(owner.B[3], std=0.3)
        with owner.attached():
            want.append(base.hidden(flat, chosen).detach())
        owners.append(owner)
    for owner in owners:
        owner.attach()
    got = base.hidden_of_each(owners, flat, chosen)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(want, [*want[1:], want[0]], strict=True))
    torch.testing.assert_close(got, torch.stack(want), rtol=0, atol=1e-4)


def test_merging_on_codes_gives_dequantised_weights_with_the_change():
    base, twin = quantised_base("gpt2"), dense_twin("gpt2")
    merged = dict(adapted(base).merged_parameters())
    wanted = dict(adapted(twin).merged_parameters())
    assert merged.keys() == wanted.keys()
    assert all(torch.equal(merged[k], wanted[k]) for k in merged)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_loading(kind, tmp_path):
    folder = tiny_folder(tmp_path)
    plain = load_base(str(folder), dtype="float32")
    base = load_base(str(folder), dtype="float32", quantise=kind, double_quantise=kind == "nf4")
    assert base.quantised == (kind, kind == "nf4")
    assert base.sha256 == plain.sha256 and base.parameters == plain.parameters
    head = base.model.get_output_embeddings()
    assert not isinstance(head, Quantised) and torch.equal(base.head_VD, plain.head_VD)
    assert not any(p.requires_grad for p in base.model.parameters())
    with pytest.raises(ConfigError, match="use one of: nf4, fp4"):
        load_base(str(folder), quantise="int4")


def test_stand_ins_leave_no_trace_and_are_shared():
    base, twin = tiny_base(), dense_twin()
    flat = flatten(DOCS)
    before = base.hidden(flat)
    codes = codes_of(base.model, base.hooks.linears, "nf4", double=True)
    assert codes_of(base.model, base.hooks.linears, "nf4", double=True) is codes
    assert codes_of(base.model, base.hooks.linears, "fp4", double=True) is not codes
    hooks = [StandIn(codes[x.path], x) for x in base.hooks.linears]
    for hook in hooks:
        base.hooks.add(hook.linear.path, hook)
    fused = base.hidden(flat)
    assert torch.equal(fused, twin.hidden(flat)) and not torch.equal(fused, before)
    trunk, base.trunk = base.trunk, None
    torch.testing.assert_close(base.hidden(flat), fused, rtol=1e-5, atol=1e-5)
    base.trunk = trunk
    for hook in hooks:
        base.hooks.remove(hook)
    assert torch.equal(base.hidden(flat), before)
    watched = weakref.ref(codes)
    del codes, hooks, hook
    gc.collect()
    assert watched() is None  # no longer than someone needs them


@pytest.mark.parametrize("fused", [False, True])
def test_stand_ins_that_disagree_are_refused(fused):
    base = tiny_base()
    if not fused:
        base.trunk = None
    for kind in ("nf4", "fp4"):
        codes = codes_of(base.model, base.hooks.linears, kind, double=True)
        for linear in base.hooks.linears:
            base.hooks.add(linear.path, StandIn(codes[linear.path], linear))
    with pytest.raises(CapabilityError, match="different 4-bit weights"):
        base.hidden(flatten(DOCS))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_same():
    base = quantised_base(dtype=torch.bfloat16, **WIDE)
    codes = base.hooks.linears[0].module.codes
    moved = base.hooks.linears[0].module.cuda()
    assert torch.equal(
        moved.codes.dequantised(torch.bfloat16).cpu(), codes.dequantised(torch.bfloat16)
    )


@pytest.mark.skipif(native.library() is None, reason=f"no native kernels: {native.reason()}")
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("rows", [1, 7, kernels.FEW])
def test_few_rows_pass_the_weights_as_they_are_unpacked(rows, kind, double, monkeypatch):
    """Bit for bit what they are with the weights written down; several layers side by side."""
    source = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=source).bfloat16()

    codes = [quantise(random(o, 192), kind, double=double) for o in (36, 4, 8)]
    x, bias, past = random(rows, 192), random(48), random(rows, 48)
    weight = torch.cat([c.dequantised(torch.bfloat16) for c in codes])
    want = kernels.linear(x, weight, bias, past)
    monkeypatch.setattr(Codes, "dequantised", None)
    assert torch.equal(quantised.linear(x, codes, bias, past), want)
    assert torch.equal(quantised.linear(x, codes, None), kernels.linear(x, weight, None))


@pytest.mark.parametrize(
    ("rows", "outputs", "inputs", "dtype"),
    [
        (3, 8, 96, torch.bfloat16),
        (3, 7, 64, torch.bfloat16),
        (3, 8, 64, torch.float32),
        (kernels.FEW + 1, 8, 64, torch.bfloat16),
    ],
)
def test_other_rows_pass_the_weight_itself(rows, outputs, inputs, dtype):
    source = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=source).to(dtype)
    codes = quantise(torch.randn(outputs, inputs, generator=source), "nf4")
    want = torch.nn.functional.linear(x, codes.dequantised(dtype))
    rounding = 1e-6 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(
        quantised.linear(x, [codes], None), want, rtol=rounding, atol=rounding
    )
