"""Every kernel against plain PyTorch, and attention against the plain sum in float64.

On a machine without AVX512-BF16 or a compiler the native half is skipped; the plain half is
then the only execution there is.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from domainwright.models import attention, decode, kernels, native, segments
from domainwright.models.flat import chain, flatten

needs_native = pytest.mark.skipif(
    native.library() is None, reason=f"no native kernels: {native.reason()}"
)


def random(*shape, seed=0, dtype=torch.bfloat16):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def near(got, want, *, rounding=2**-8):
    """Equal up to the rounding of bfloat16, entry by entry, on the scale of the tensor."""
    got, want = got.double(), want.double()
    scale = want.abs() + want.abs().mean()
    assert float(((got - want).abs() / scale).max()) <= 2 * rounding


def test_the_norm_and_its_gradient_equal_autograd():
    x, weight, pull = random(5, 32).double(), random(32, seed=1).double(), random(5, 32, seed=2)
    x, weight, pull = x.float(), weight.float(), pull.float()
    leaf = x.clone().requires_grad_()
    want = leaf / (leaf.square().mean(1, keepdim=True) + 1e-3).sqrt() * weight
    (gradient,) = torch.autograd.grad(want, leaf, pull)
    got, inverse = kernels.rms_norm(x, weight, 1e-3)
    torch.testing.assert_close(got, want.detach())
    already = random(5, 32, seed=3, dtype=torch.float32)
    into = already.clone()
    kernels.rms_norm_backward(x, weight, inverse, pull, into)
    torch.testing.assert_close(into - already, gradient, rtol=1e-4, atol=1e-5)


def test_swiglu_and_its_gradient_equal_autograd():
    gate_up, pull = random(4, 64, dtype=torch.float32), random(4, 32, seed=1, dtype=torch.float32)
    leaf = gate_up.clone().requires_grad_()
    gate, up = leaf.chunk(2, dim=1)
    want = torch.nn.functional.silu(gate) * up
    (gradient,) = torch.autograd.grad(want, leaf, pull)
    torch.testing.assert_close(kernels.swiglu(gate_up), want.detach())
    kernels.swiglu_backward(gate_up, pull)
    torch.testing.assert_close(gate_up, gradient)
    torch.testing.assert_close(pull, want.detach())


def test_a_rotation_keeps_lengths_and_is_undone_by_its_gradient():
    x = random(6, 3 * 8 + 5, dtype=torch.float32)
    angle = torch.arange(6.0)[:, None] * torch.tensor([1.0, 0.5, 0.1, 0.01]).repeat(2)
    turned = x.clone()
    kernels.rotate(turned, 2, angle.cos(), angle.sin(), 1.0)
    assert torch.equal(turned[:, 16:], x[:, 16:])  # only the first heads turn
    # A pair of numbers as one complex number: e^{i angle} times it.
    for head in (0, 8):
        pair = torch.complex(x[:, head : head + 4], x[:, head + 4 : head + 8])
        want = pair * torch.exp(1j * angle[:, :4])
        torch.testing.assert_close(turned[:, head : head + 4], want.real)
        torch.testing.assert_close(turned[:, head + 4 : head + 8], want.imag)
    kernels.rotate(turned, 2, angle.cos(), angle.sin(), -1.0)
    torch.testing.assert_close(turned, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [7, 48, 1003])
def test_cross_entropy_equals_the_library(dtype, vocabulary):
    logits = 4 * random(9, vocabulary, dtype=torch.float32)
    logits = logits.to(dtype)
    labels = torch.arange(9) % vocabulary
    leaf = logits.float().clone().requires_grad_()
    want = torch.nn.functional.cross_entropy(leaf, labels, reduction="none")
    (gradient,) = torch.autograd.grad(want.sum(), leaf)
    largest = logits.float().argmax(1)
    loss, best = kernels.cross_entropy(logits.clone(), labels, gradient=False)
    torch.testing.assert_close(loss, want.detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(best, largest)
    again, _ = kernels.cross_entropy(logits, labels, gradient=True)
    assert torch.equal(again, loss)
    rounding = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(logits.float(), gradient, rtol=rounding, atol=1e-6)


def test_of_equal_logits_the_first_is_the_largest():
    logits = torch.zeros(2, 37, dtype=torch.bfloat16)
    logits[1, 30] = logits[1, 35] = 2.0
    for typed in (logits, logits.float()):
        assert kernels.largest(typed).tolist() == [0, 30]
        _, best = kernels.cross_entropy(typed, torch.tensor([0, 0]), gradient=False)
        assert best.tolist() == [0, 30]


@needs_native
def test_native_rows_equal_plain_ones(monkeypatch):
    """Widths that are whole registers; 33 rows leave one thread a shorter share."""
    x, weight, pull = random(33, 96), random(96, seed=1), random(33, 96, seed=2)
    gate_up, above = random(33, 96, seed=3), random(33, 48, seed=4)
    cosine, sine = random(33, 32, seed=5).float(), random(33, 32, seed=6).float()

    def everything():
        out, inverse = kernels.rms_norm(x, weight, 1e-5)
        into, turned = x.clone(), x.clone()
        kernels.rms_norm_backward(x, weight, inverse, pull, into)
        kernels.rotate(turned, 2, cosine, sine, 1.0)
        product = kernels.swiglu(gate_up)
        slopes, again = gate_up.clone(), above.clone()
        kernels.swiglu_backward(slopes, again)
        return out, inverse, into, turned, product, slopes, again

    fast = everything()
    monkeypatch.setattr(kernels, "fast", lambda *_: None)
    for got, want in zip(fast, everything(), strict=True):
        near(got, want)


@needs_native
@pytest.mark.parametrize("rows", [1, 5, 6, 7, 32])
@pytest.mark.parametrize("inputs", [32, 96])
def test_a_linear_layer_on_few_rows_equals_float64(rows, inputs, monkeypatch):
    """Rows apart in memory; 36 outputs leave one thread a shorter share."""
    x = random(rows, 2 * inputs)[:, inputs:]
    weight, bias, past = random(36, inputs, seed=1), random(36, seed=2), random(rows, 36, seed=3)
    monkeypatch.setattr(torch.nn.functional, "linear", None)
    monkeypatch.setattr(torch, "addmm", None)
    product = x.double() @ weight.double().T
    near(kernels.linear(x, weight, None), product)
    near(kernels.linear(x, weight, bias), product + bias.double())
    near(kernels.linear(x, weight, bias, past), product + bias.double() + past.double())
    # A residual whose rows are apart as well.
    apart = torch.cat([past, past], dim=1)[:, :36]
    near(kernels.linear(x, weight, None, apart), product + past.double())


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "dtype"),
    [
        (3, 33, 8, torch.bfloat16),
        (3, 32, 7, torch.bfloat16),
        (3, 32, 8, torch.float32),
        (0, 32, 8, torch.bfloat16),
        (kernels.FEW + 1, 32, 8, torch.bfloat16),
    ],
)
def test_a_linear_layer_that_the_kernel_does_not_take_is_the_librarys(rows, inputs, outputs, dtype):
    x, weight = random(rows, inputs, dtype=dtype), random(outputs, inputs, seed=1, dtype=dtype)
    bias, past = random(outputs, seed=2, dtype=dtype), random(rows, outputs, seed=3, dtype=dtype)
    assert not kernels.reads_as_it_lies(x, weight)
    want = torch.nn.functional.linear(x, weight, bias)
    assert torch.equal(kernels.linear(x, weight, bias), want)
    if rows:
        near(kernels.linear(x, weight, bias, past), want.double() + past.double(), rounding=2**-7)


def test_a_linear_layer_that_learns_has_its_gradient():
    x, weight = random(3, 32), random(8, 32, seed=1)
    assert kernels.linear(x.requires_grad_(), weight, None).requires_grad
    assert kernels.linear(x.detach(), weight.requires_grad_(), None).requires_grad
    assert not kernels.reads_as_it_lies(x, weight.detach())


def plain_attention(query, key, value, flat, window, scale):
    """One token at a time in float64."""
    documents = flat.documents()
    rows = []
    for number, own in enumerate(documents):
        before = [
            t
            for i in chain(flat.parents, number)[:-1]
            for t in range(documents[i].start, documents[i].stop)
        ]
        for token in range(own.start, own.stop):
            seen = [*before, *range(own.start, token + 1)][-(window or 10**9) :]
            group = query.shape[1] // key.shape[1]
            k, v = (x[seen].repeat_interleave(group, 1) for x in (key, value))
            weight = (torch.einsum("hd,shd->hs", query[token], k) * scale).softmax(1)
            rows.append(torch.einsum("hs,shd->hd", weight, v))
    return torch.stack(rows)


TREE = [None, 0, 1, 1, 0, None, 5, 5]
CASES = {
    "one token": ((1,), ()),
    "odd ends": ((17, 1, 61, 2), ()),
    "longer than a block": ((131, 7), ()),
    "tree": ((70, 5, 33, 1, 9, 41, 2, 64), TREE),
}


@needs_native
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("window", [None, 1, 20])
@pytest.mark.parametrize(
    ("heads", "keys", "size"), [(4, 2, 16), (3, 3, 48), (9, 3, 64), (2, 1, 80)]
)
def test_native_attention_and_its_gradients_equal_the_plain_sum(case, window, heads, keys, size):
    lengths, parents = CASES[case]
    flat = flatten([[0] * n for n in lengths], parents=parents)
    wide = random(flat.tokens, heads + 2 * keys, size)  # queries, keys and values in one buffer
    parts = wide[:, :heads], wide[:, heads : heads + keys], wide[:, heads + keys :]
    scale = size**-0.5
    leaves = [x.double().requires_grad_() for x in parts]
    want = plain_attention(*leaves, flat, window, scale)
    pull = random(flat.tokens, heads, size, seed=1)
    gradients = torch.autograd.grad(want, leaves, pull.double())
    seen = segments.Segments(flat.bounds, flat.parents)
    got, normaliser = segments.forward(*parts, seen, scale, window)
    into = torch.full_like(wide, math.nan)
    views = into[:, :heads], into[:, heads : heads + keys], into[:, heads + keys :]
    segments.backward(*parts, got, pull, normaliser, seen, scale, window, views)
    for a, b in zip((got, *views), (want.detach(), *gradients), strict=True):
        error = (a.double() - b).norm() / b.norm().clamp_min(1e-9)
        # bfloat16 keeps 8 bits of every weight; 1 in 256 is the largest error of one rounding.
        assert float(error) < 2**-7 or float(b.norm()) < 1e-9


BEHIND = {
    "all": [(3, None)],
    "two for all": [(3, None), (20, None)],
    "owners": [(3, slice(0, 70)), (20, slice(70, 159))],
    "one owner": [(5, slice(0, 159))],
    "nobody": [(5, slice(2, 9))],
}


@needs_native
@pytest.mark.parametrize("case", BEHIND)
@pytest.mark.parametrize("window", [None, 4096])
def test_rows_before_every_document_are_attended_natively_too(case, window, monkeypatch):
    lengths, parents = (70, 5, 33, 1, 9, 41, 2, 64), [None, None, 1, 2, 1, 1, None, 6]
    flat = flatten([[0] * n for n in lengths], parents=parents)
    parts = [random(1, heads, flat.tokens, 32, seed=i) for i, heads in enumerate((4, 2, 2))]
    leaves = [x.requires_grad_() for x in parts]
    extra = []
    for number, (count, span) in enumerate(BEHIND[case]):
        pair = tuple(
            random(2, count, 32, seed=9 + 2 * number + i, dtype=torch.float32).requires_grad_()
            for i in range(2)
        )
        extra.append((pair, span))
        leaves += pair
    pull = random(1, flat.tokens, 4, 32, seed=5)
    rest = None, (flat.bounds, flat.parents), (0.2, window, None, 0.0)

    def once():
        out = attention.prefixed(*parts, extra, *rest)
        return out, torch.autograd.grad(out, leaves, pull, materialize_grads=True)

    calls = []
    plain = segments.forward
    monkeypatch.setattr(segments, "forward", lambda *a: calls.append(1) or plain(*a))
    got, gradients = once()
    assert calls, "not the native kernel"
    monkeypatch.setattr(segments, "fast", lambda *_: None)
    want, wanted = once()
    for a, b in zip((got, *gradients), (want, *wanted), strict=True):
        assert a.dtype == b.dtype
        # Both sides round to bfloat16, each in its own order.
        a, b = a.detach().double(), b.detach().double()
        assert float((a - b).norm()) <= 2**-6 * float(b.norm())


@needs_native
def test_rows_before_every_document_are_seen_past_a_window(monkeypatch):
    """The kernel would hide them, so it is not asked."""
    parts = [random(1, 2, 40, 32, seed=i) for i in range(3)]
    extra = [((random(2, 3, 32, seed=7), random(2, 3, 32, seed=8)), None)]
    monkeypatch.setattr(segments, "forward", None)
    out = attention.prefixed(*parts, extra, None, ((0, 40), ()), (0.2, 8, None, 0.0))
    far = torch.arange(40)[:, None] - torch.arange(40)
    mask = torch.cat([torch.ones(40, 3, dtype=torch.bool), (far >= 0) & (far < 8)], dim=1)
    key, value = (
        torch.cat([rows[None], text], dim=2).double()
        for rows, text in zip(extra[0][0], parts[1:], strict=True)
    )
    want = torch.nn.functional.scaled_dot_product_attention(
        parts[0].double(), key, value, attn_mask=mask, scale=0.2
    )
    assert float((out.transpose(1, 2).double() - want).norm() / want.norm()) < 2**-7


@needs_native
def test_native_attention_is_the_same_whichever_thread_is_first():
    """Gradients of shared ancestors are summed in a fixed order."""
    lengths, parents = CASES["tree"]
    flat = flatten([[0] * n for n in lengths], parents=parents)
    parts = [random(flat.tokens, 2, 32, seed=i) for i in range(3)]
    seen = segments.Segments(flat.bounds, flat.parents)

    def once():
        out, normaliser = segments.forward(*parts, seen, 0.2, None)
        into = [torch.empty_like(x) for x in parts]
        segments.backward(*parts, out, parts[0], normaliser, seen, 0.2, None, tuple(into))
        return [out, *into]

    first = once()
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(first, once(), strict=True))


@needs_native
def test_weights_of_any_size_give_finite_results():
    """Scores of ±1000 would overflow an exponential that is not shifted."""
    parts = [300 * random(40, 2, 32, seed=i) for i in range(3)]
    seen = segments.Segments((0, 40))
    out, normaliser = segments.forward(*parts, seen, 1.0, None)
    into = tuple(torch.empty_like(x) for x in parts)
    segments.backward(*parts, out, parts[0], normaliser, seen, 1.0, None, into)
    assert all(bool(x.isfinite().all()) for x in (out, normaliser, *into))


@needs_native
def test_only_bfloat16_rows_of_whole_registers_are_taken():
    assert kernels.fast(random(2, 32), 32)
    assert kernels.fast(random(2, 24), 24) is None
    assert kernels.fast(random(2, 32, dtype=torch.float32), 32) is None


def test_without_a_compiler_there_is_a_reason(monkeypatch):
    monkeypatch.delenv("DOMAINWRIGHT_NATIVE", raising=False)
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(native.sys, "platform", "linux")
    monkeypatch.setattr(native.platform, "machine", lambda: "x86_64")
    assert native._load.__wrapped__() == (None, "no C++ compiler (g++) found")
    monkeypatch.setenv("DOMAINWRIGHT_NATIVE", "0")
    assert "DOMAINWRIGHT_NATIVE=0" in native._load.__wrapped__()[1]


@needs_native
def test_a_compiler_that_fails_is_no_obstacle(monkeypatch, tmp_path):
    broken = tmp_path / "g++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho no such flag >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("DOMAINWRIGHT_CACHE", str(tmp_path))
    library, reason = native._load.__wrapped__()
    assert library is None and "no such flag" in reason
    assert [p.name for p in tmp_path.iterdir()] == ["g++"]  # no half-made library stays


@needs_native
@pytest.mark.parametrize(
    ("heads", "keys", "size"), [(4, 2, 32), (9, 3, 64), (5, 1, 64), (3, 3, 128)]
)
@pytest.mark.parametrize("window", [None, 6])
def test_one_token_of_every_row_equals_the_plain_sum(heads, keys, size, window):
    rows, columns, column = 3, 40, 36
    trunk = SimpleNamespace(heads=heads, key_heads=keys, size=size, scale=size**-0.5)
    cache = [random(rows, keys, columns, size, seed=i) for i in range(2)]
    query = random(rows, (heads + 2 * keys) * size, seed=3)
    begins = torch.tensor([0, 36, 19])
    got = decode.attend(trunk, query, *cache, begins, column, window)
    for row, begin in enumerate(begins.tolist()):
        seen = slice(max(begin, column + 1 - (window or 10**9)), column + 1)
        k, v = (x[row, :, seen].double().repeat_interleave(heads // keys, 0) for x in cache)
        q = query[row, : heads * size].unflatten(0, (heads, size)).double()
        weight = (torch.einsum("hd,hsd->hs", q, k) * trunk.scale).softmax(1)
        want = torch.einsum("hs,hsd->hd", weight, v).flatten()
        assert float((got[row].double() - want).norm() / want.norm()) < 2**-7
