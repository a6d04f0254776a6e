"""Documents in one flat batch give what each gives alone; transformers' own path is the oracle."""

from contextlib import nullcontext

import pytest
import torch
from transformers import AttentionInterface

from domainwright.core.errors import CapabilityError
from domainwright.models import attention
from domainwright.models.base import FAST_DTYPES, Base, fast_dtype
from domainwright.models.flat import chain, flatten
from tests.tiny import CONFIGS, PACKED, WINDOW, documents, own_logits, tiny_base

LENGTHS = (17, 3, 11, 1, 2 * WINDOW, 23)


@pytest.mark.parametrize("family", CONFIGS)
def test_packed_logits_equal_single_ones(family):
    base = tiny_base(family)
    docs = documents(LENGTHS)
    want = torch.cat([own_logits(base.model, ids) for ids in docs])
    flat = flatten(docs)
    got = base.logits(flat, torch.arange(flat.tokens))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    assert want.std() > 0.5  # the tolerance is small beside the logits
    chosen = torch.tensor([0, 19, 16, flat.tokens - 1])
    torch.testing.assert_close(base.logits(flat, chosen), want[chosen], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", CONFIGS)
def test_how_a_family_is_fed(family):
    base = tiny_base(family)
    assert base.feeding == ("single" if family == "mamba" else "packed")
    # Gemma 2 caps its logits after the head, so they are no plain matrix product.
    assert base.plain_head == (family != "gemma2")


@pytest.mark.parametrize("family", CONFIGS)
def test_packed_gradients_equal_the_sum_of_single_ones(family):
    docs = documents((9, 2, 14))
    base = tiny_base(family)
    weights = [linear.module.weight.requires_grad_() for linear in base.hooks.linears]

    def loss(logits, ids):
        return torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(ids[1:]), reduction="sum"
        )

    want = [torch.zeros_like(w) for w in weights]
    for ids in docs:
        for total, part in zip(
            want,
            torch.autograd.grad(loss(own_logits(base.model, ids), ids), weights),
            strict=True,
        ):
            total += part
    flat = flatten(docs)
    logits = base.logits(flat, torch.arange(flat.tokens))
    parts = zip(flat.documents(), docs, strict=True)
    got = torch.autograd.grad(sum(loss(logits[s], ids) for s, ids in parts), weights)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()) + 1e-7)


@pytest.mark.parametrize(
    ("family", "feeding"),
    [("llama", "masked"), ("gpt2", "masked"), ("llama", "single"), ("gemma2", "single")],
)
def test_the_other_ways_of_feeding_give_the_same(family, feeding):
    base = tiny_base(family)
    docs = documents(LENGTHS)
    flat = flatten(docs)
    want = base.logits(flat, torch.arange(flat.tokens))
    base.feeding = feeding
    base.model.set_attn_implementation("eager" if family == "gemma2" else "sdpa")
    got = base.logits(flat, torch.arange(flat.tokens))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def test_a_model_that_drops_the_document_bounds_is_fed_with_a_mask():
    """The probe measures; it does not trust the name of the architecture."""

    def deaf(*args, document_bounds=None, **more):
        return attention.attend(*args, **more)

    AttentionInterface.register(attention.NAME, deaf)
    try:
        base = tiny_base("llama")
    finally:
        AttentionInterface.register(attention.NAME, attention.attend)
    assert base.feeding == "masked" and base.model.config._attn_implementation == "sdpa"
    docs = documents(LENGTHS)
    flat = flatten(docs)
    got = base.logits(flat, torch.arange(flat.tokens))
    want = torch.cat([own_logits(base.model, ids) for ids in docs])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("error", "refused"), [(1e-3, True), (1e-6, False)])
def test_a_model_that_no_way_of_feeding_reproduces_is_refused(monkeypatch, error, refused):
    logits = Base.logits
    monkeypatch.setattr(Base, "logits", lambda self, flat, n: logits(self, flat, n) * (1 + error))
    with (
        pytest.raises(CapabilityError, match="other logits for packed documents")
        if refused
        else nullcontext()
    ):
        tiny_base("llama")


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_packed_bfloat16_stays_near_float32(family):
    docs = documents(LENGTHS)
    flat = flatten(docs)
    everything = torch.arange(flat.tokens)
    want = tiny_base(family).logits(flat, everything)
    base = tiny_base(family, torch.bfloat16)
    assert base.dtype == torch.bfloat16 and base.feeding == "packed"
    got = base.logits(flat, everything).float()
    assert (got - want).abs().mean() < 0.05 * want.std()


def naive(query, key, value, scale, window, softcap):
    """One head and one position at a time, in float64: shares nothing with the plug-in."""
    out = torch.zeros(query.shape, dtype=torch.float64)
    groups = query.shape[1] // key.shape[1]
    shift = key.shape[2] - query.shape[2]
    for b, h, t in torch.cartesian_prod(*(torch.arange(n) for n in query.shape[:3])).tolist():
        first = 0 if window is None else max(0, t + shift - window + 1)
        seen = slice(first, t + shift + 1)
        score = key[b, h // groups, seen].double() @ query[b, h, t].double() * scale
        if softcap:
            score = softcap * (score / softcap).tanh()
        out[b, h, t] = score.softmax(0) @ value[b, h // groups, seen].double()
    return out.transpose(1, 2)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 3, 7, 8, 20])
@pytest.mark.parametrize("new", [8, 5, 1])
def test_attention_equals_the_plain_sum(window, softcap, new):
    source = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, new, 6, generator=source)
    key, value = torch.randn(2, 2, 2, 8, 6, generator=source)
    got, weights = attention.attend(
        torch.nn.Module(), query, key, value, scaling=0.9, sliding_window=window, softcap=softcap
    )
    assert weights is None
    want = naive(query, key, value, 0.9, window, softcap)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_documents_of_a_flat_row_do_not_see_each_other(softcap):
    source = torch.Generator().manual_seed(1)
    query, key, value = torch.randn(3, 1, 2, 9, 4, generator=source)
    got, _ = attention.attend(
        torch.nn.Module(), query, key, value, document_bounds=(0, 4, 5, 9), softcap=softcap
    )
    want = [
        naive(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], 0.5, None, softcap)
        for a, b in ((0, 4), (4, 5), (5, 9))
    ]
    torch.testing.assert_close(got.double(), torch.cat(want, dim=1), rtol=0, atol=1e-5)


def test_a_window_and_a_mask_both_hide():
    source = torch.Generator().manual_seed(2)
    query, key, value = torch.randn(3, 1, 1, 6, 4, generator=source)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    mask[..., 4] = False
    got, _ = attention.attend(torch.nn.Module(), query, key, value, mask, sliding_window=2)
    # The last token sees positions 4 and 5 by the window, and 4 is masked.
    torch.testing.assert_close(got[0, 5, 0], value[0, 0, 5])


def test_a_flat_batch():
    flat = flatten([[5, 6, 7], [8], [9, 10]])
    assert flat.ids_T.tolist() == [5, 6, 7, 8, 9, 10]
    assert flat.positions_T.tolist() == [0, 1, 2, 0, 0, 1]
    assert flat.bounds == (0, 3, 4, 6) and flat.tokens == 6
    assert flat.documents() == [slice(0, 3), slice(3, 4), slice(4, 6)]


def test_the_head_of_a_base():
    base = tiny_base("phi")
    hidden = torch.randn(5, 32)
    torch.testing.assert_close(base.project(hidden), base.model.lm_head(hidden))
    assert base.model.lm_head.bias is not None
    assert base.vocabulary == 320 and base.context == 256
    assert base.parameters == sum(p.numel() for p in base.model.parameters())
    assert base.head_VD.shape == (320, 32)


def test_a_base_is_frozen():
    base = tiny_base("llama")
    assert not base.model.training and not any(p.requires_grad for p in base.model.parameters())


def test_the_fast_type_of_a_machine(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert fast_dtype("cpu") is torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert fast_dtype("cpu") is torch.bfloat16
    assert fast_dtype("mps") is torch.float32
    assert FAST_DTYPES["float16"] is torch.float16


def test_every_packed_family_is_known():
    assert set(PACKED) | {"mamba"} == set(CONFIGS)


TREE = [None, 0, 1, 1, 0, None, 5, 5]
"""A prompt with two readings, one of them continued twice; and another prompt with two."""
TREE_LENGTHS = (2 * WINDOW, 5, 3, 1, 9, 4, 2, 7)


def _alone(number, docs):
    return [token for i in chain(TREE, number) for token in docs[i]]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_document_that_continues_another_equals_the_one_that_repeats_it(family):
    base = tiny_base(family)
    docs = documents(TREE_LENGTHS)
    want = torch.cat(
        [own_logits(base.model, _alone(i, docs))[-len(docs[i]) :] for i in range(len(docs))]
    )
    flat = flatten(docs, parents=TREE)
    got = base.logits(flat, torch.arange(flat.tokens))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("family", "feeding"), [("llama", "masked"), ("gpt2", "masked")])
def test_a_mask_knows_the_ancestors_too(family, feeding):
    base = tiny_base(family)
    flat = flatten(documents(TREE_LENGTHS), parents=TREE)
    want = base.logits(flat, torch.arange(flat.tokens))
    base.feeding = feeding
    base.model.set_attn_implementation("sdpa")
    torch.testing.assert_close(
        base.logits(flat, torch.arange(flat.tokens)), want, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("family", PACKED)
def test_gradients_reach_a_shared_ancestor_from_every_descendant(family):
    docs = documents(TREE_LENGTHS)
    base = tiny_base(family)
    weights = [linear.module.weight.requires_grad_() for linear in base.hooks.linears]
    flat = flatten(docs, parents=TREE)
    pull = torch.randn(flat.tokens, base.vocabulary, generator=torch.Generator().manual_seed(1))
    logits = base.logits(flat, torch.arange(flat.tokens))
    got = torch.autograd.grad((logits * pull).sum(), weights)
    total = sum(
        (own_logits(base.model, _alone(i, docs))[-len(docs[i]) :] * pull[s]).sum()
        for i, s in enumerate(flat.documents())
    )
    for a, b in zip(got, torch.autograd.grad(total, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()) + 1e-7)
