"""Where LoRA's factors begin: PiSSA, OLoRA and EVA against PEFT, LoftQ against plain loops."""

import json
import logging

import peft
import pytest
import torch
from peft.tuners.lora.eva import initialize_lora_eva_weights

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.methods import METHODS, _starts
from domainwright.methods.dora import DoraSettings
from domainwright.methods.lora import LoraSettings
from domainwright.methods.qlora import QloraSettings
from domainwright.models.flat import flatten
from tests.methods.test_lora import peft_logits
from tests.methods.test_method_contract import DOCS, gradients, logits, step
from tests.models.test_quantised import quantised_base
from tests.tiny import tiny_base, tiny_model, train_rows

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
LORA, DORA, QLORA = (METHODS.get(name) for name in ("lora", "dora", "qlora"))
each_start = pytest.mark.parametrize("start", ["pissa", "olora"])
ROWS = train_rows((30, 21, 40, 33))
"""More tokens than twice the inputs of the widest layer have directions."""


def peft_started(family, start, **settings):
    """PEFT's model with such a start: the weights of its base are changed."""
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        target_modules="all-linear",
        init_lora_weights=start,
        fan_in_fan_out=family == "gpt2",
        **{"r": 4, "lora_alpha": 6, **settings},
    )
    return peft.get_peft_model(tiny_model(family), config).eval()


def built(base, start, **settings):
    return LORA.build(base, LoraSettings(rank=4, alpha=6.0, start=start, **settings), 0)


@each_start
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_factors_begin_where_pefts_do(start, family, rslora):
    adapter = built(tiny_base(family), start, rslora=rslora)
    theirs = dict(peft_started(family, start, use_rslora=rslora).named_parameters())
    for layer, a, b in zip(adapter.layers, adapter.A, adapter.B, strict=True):
        name = f"base_model.model.{layer.path}.lora_%s.default.weight"
        want = (theirs[name % "B"] @ theirs[name % "A"]).detach()  # the sign of each part is free
        if family == "gpt2" and start == "olora":
            # PEFT decomposes a Conv1D's weight as it is stored, (I, O): its factors fit no layer.
            parts = torch.linalg.qr(layer.weight_OI)
            want = parts.Q[:, :4] @ parts.R[:4]
        torch.testing.assert_close(b @ a, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


@each_start
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_the_start_is_exactly_the_base(start, dtype, fused):
    base = tiny_base("llama", dtype)
    if not fused:
        base.trunk = None
    before = logits(base)
    with built(base, start).attached(), torch.no_grad():
        assert torch.equal(logits(base), before)


@each_start
@pytest.mark.parametrize("make", [tiny_base, quantised_base])
def test_over_4_bits_the_start_is_exactly_the_4_bit_base(start, make):
    base = make()
    found = []
    for settings in (QloraSettings(), QloraSettings(rank=4, start=start)):
        adapter = QLORA.build(base, settings, 0)
        with adapter.attached(), torch.no_grad():
            found.append(logits(base))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    with adapter.attached():
        assert step(base, adapter) == {n for n, _ in adapter.named_parameters()}


@each_start
def test_trained_factors_give_pefts_logits_and_gradients(start):
    base = tiny_base()
    adapter = built(base, start)
    model = peft_started("llama", start)
    theirs = dict(model.named_parameters())
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer, a, b in zip(adapter.layers, adapter.A, adapter.B, strict=True):
            for side, ours in (("A", a), ("B", b)):
                # Their signs may be others, so both get ours.
                ours += 0.1 * torch.randn(ours.shape, generator=source)
                theirs[f"base_model.model.{layer.path}.lora_{side}.default.weight"].copy_(ours)
    adapter.attach()
    got, want = logits(base), peft_logits(model)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-4)
    up = torch.randn(want.shape, generator=source)
    (want * up).sum().backward()
    (got * up).sum().backward()
    for layer, a, b in zip(adapter.layers, adapter.A, adapter.B, strict=True):
        for side, ours in (("A", a), ("B", b)):
            want = theirs[f"base_model.model.{layer.path}.lora_{side}.default.weight"].grad
            torch.testing.assert_close(
                ours.grad, want, rtol=1e-3, atol=1e-4 * float(want.abs().max())
            )


@each_start
@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_the_fused_gradients_are_the_plain_ones(start, dropout):
    base = tiny_base()
    adapter = built(base, start, targets=("q", "v", "up", "down"), dropout=dropout)
    adapter.attach()
    step(base, adapter)
    got = gradients(base, adapter)
    base.trunk = None
    for place in base.hooks._on.values():  # neither the node of one layer
        place[:] = [(lambda x, out, change=hook: change(x, out), owner) for hook, owner in place]
    for a, b in zip(got, gradients(base, adapter), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


PATTERNS = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 3.0}}


@each_start
@pytest.mark.parametrize("settings", [{}, {"rslora": True}, PATTERNS], ids=str)
def test_the_folder_is_a_plain_lora_of_twice_the_rank(start, settings, tmp_path):
    base = tiny_base()
    adapter = built(base, start, **settings)
    adapter.attach()
    step(base, adapter)
    want = logits(base)
    adapter.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == 8 and config["init_lora_weights"] is True
    model = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    torch.testing.assert_close(peft_logits(model), want, rtol=0, atol=5e-4)
    # Ours comes back as it was, and trains on.
    fresh = tiny_base()
    again = LORA.load(fresh, tmp_path)
    assert again.settings.start == start and again.trainable == adapter.trainable
    state = again.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in adapter.state_dict().items())
    again.attach()
    assert torch.equal(logits(fresh), want)
    assert step(fresh, again) == {n for n, _ in again.named_parameters()}
    # Without our note it is what the config says: a LoRA of rank 8.
    (tmp_path / "domainwright.json").unlink()
    fresh = tiny_base()
    plain = LORA.load(fresh, tmp_path)
    assert plain.settings.rank == 8 and plain.trainable > adapter.trainable
    plain.attach()
    torch.testing.assert_close(logits(fresh), want, rtol=0, atol=5e-4)


@each_start
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merging(start, family):
    base = tiny_base(family)
    adapter = built(base, start)
    adapter.attach()
    step(base, adapter)
    want = logits(base)
    merged = dict(adapter.merged_parameters())
    adapter.detach()
    for name, weight in merged.items():
        base.model.get_parameter(name).copy_(weight)
    torch.testing.assert_close(logits(base), want, rtol=0, atol=2e-4)


def test_a_fast_decomposition_is_near_the_exact_one():
    source = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 90, generator=source))[0] for n in (200, 120))
    weight = left * 0.9 ** torch.arange(90) @ right.T
    exact = _starts.top_parts(weight, 8, None, 0)
    before = torch.random.get_rng_state()
    fast = _starts.top_parts(weight, 8, 4, 0)
    again = _starts.top_parts(weight, 8, 4, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(fast[0], again[0])
    error = (fast[1] @ fast[0] - exact[1] @ exact[0]).norm() / (exact[1] @ exact[0]).norm()
    assert error < 1e-3
    assert built(tiny_base(), "pissa", svd_passes=2).settings.svd_passes == 2


def test_a_rank_beyond_the_layers_own_is_filled_with_zeros():
    for make in _starts.COUNTED.values():
        a, b = make(torch.randn(6, 9), 8, 1.0, None, 0)
        assert a.shape == (8, 9) and b.shape == (6, 8) and not a[6:].any() and not b[:, 6:].any()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LoraSettings, {"start": "loftq"}),
        (LoraSettings, {"start": "svd"}),
        (LoraSettings, {"svd_passes": -1}),
        (LoraSettings, {"rank_growth": 0.5}),
        (DoraSettings, {"start": "pissa"}),
        (DoraSettings, {"start": "olora"}),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(kind, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        kind(**settings)


def eva_adapter(base, kind=LORA, rows=ROWS, **settings):
    adapter = kind.build(base, kind.Settings(rank=4, alpha=6.0, start="eva", **settings), 0)
    adapter.prepare(rows, 0)
    return adapter


def peft_eva(rows, growth):
    with pytest.warns(UserWarning, match="low_cpu_mem_usage"):
        model = peft_started("llama", "eva", eva_config=peft.EvaConfig(rho=growth, tau=0.999))
    longest = max(len(r.ids) for r in rows)
    ids = torch.tensor([r.ids + [0] * (longest - len(r.ids)) for r in rows])
    marks = [[*r.supervised, *[False] * (longest - len(r.ids))] for r in rows]
    mask = torch.tensor([[1] * len(r.ids) + [0] * (longest - len(r.ids)) for r in rows])
    labels = torch.where(torch.tensor(marks), ids, -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    initialize_lora_eva_weights(model, [batch], show_progress_bar=False)
    return model


@pytest.mark.parametrize("growth", [2.0, 3.0])
def test_eva_finds_pefts_directions_and_ranks(growth):
    adapter = eva_adapter(tiny_base(), rank_growth=growth)
    model = peft_eva(ROWS, growth)
    theirs = {
        n.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight"): p
        for n, p in model.named_parameters()
        if "lora_A" in n
    }
    config = model.peft_config["default"]
    assert sum(len(a) for a in adapter.A) == 4 * 14
    assert {x.path for x in adapter.layers} == set(theirs)
    for layer, a, b in zip(adapter.layers, adapter.A, adapter.B, strict=True):
        want = theirs[layer.path]
        assert a.shape == want.shape, layer.path
        nearness = (a @ want.T).diagonal().abs()
        assert float(nearness.detach().min()) > 0.99, layer.path
        torch.testing.assert_close(a @ a.T, torch.eye(len(a)), rtol=0, atol=1e-4)
        assert not b.any()
        rank = config.rank_pattern.get(layer.path, 4)
        assert adapter.settings.scale_of(layer.path) == pytest.approx(6.0 / 4)
        assert adapter.settings.rank_of(layer.path) == rank


def test_eva_against_a_whole_decomposition_of_the_inputs():
    """The layers' inputs as plain hooks of torch see them, tokens without loss left out."""
    base = tiny_base("gpt2")
    adapter = eva_adapter(base, rank_growth=1.0)
    seen = {}
    handles = [
        x.module.register_forward_hook(
            lambda m, given, out, path=x.path: seen.setdefault(path, []).append(given[0][0])
        )
        for x in base.hooks.linears
    ]
    for row in ROWS:
        base.model(input_ids=torch.tensor([row.ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    marks = torch.tensor([m for r in ROWS for m in r.supervised])
    for layer, a in zip(adapter.layers, adapter.A, strict=True):
        x = torch.cat(seen[layer.path])[marks]
        _, _, right = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        nearness = (a @ right[: len(a)].T).diagonal().abs()
        assert float(nearness.detach().min()) > 0.999, layer.path


@pytest.mark.parametrize("kind", [LORA, DORA, QLORA])
def test_eva_starts_at_the_base_and_trains(kind, tmp_path):
    base = tiny_base()
    adapter = eva_adapter(base, kind, rank_growth=3.0)
    assert sum(len(a) for a in adapter.A) == 4 * 14
    before = logits(base)
    assert not base.hooks._on  # nothing was left behind
    adapter.attach()
    assert kind is QLORA or torch.allclose(logits(base), before, rtol=0, atol=2e-5)
    assert step(base, adapter) == {n for n, _ in adapter.named_parameters()}
    adapter.save(tmp_path)
    fresh = tiny_base()
    kind.load(fresh, tmp_path).attach()
    assert torch.equal(logits(fresh), logits(base))


def test_eva_is_decided_by_the_rows():
    one, same, other = (eva_adapter(tiny_base(), rows=rows).A for rows in (ROWS, ROWS, ROWS[:2]))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    shapes = [[a.shape for a in found] for found in (one, other)]
    assert shapes[0] != shapes[1] or not torch.equal(one[0], other[0])


def test_eva_says_what_it_needs():
    with pytest.raises(DataError, match="looks for 8 directions"):
        eva_adapter(tiny_base(), rows=train_rows((6,)))
    with pytest.raises(CapabilityError, match="does not read every token"):
        eva_adapter(tiny_base("mamba"))
    assert LORA.build(tiny_base(), LoraSettings(), 0).prepare(ROWS, 0) is None


def plain_loftq(weight, rank, rounds):
    """Algorithm 1 of the paper with bitsandbytes as the quantiser."""
    functional = pytest.importorskip("bitsandbytes").functional
    low = torch.zeros_like(weight)
    for _ in range(rounds):
        # In rows of a block: its CPU kernel misreads the scales of rows of 32.
        rows = (weight - low).reshape(-1, 64)
        packed, state = functional.quantize_4bit(rows, quant_type="nf4", compress_statistics=True)
        quantised = functional.dequantize_4bit(packed, state).view(weight.shape)
        u, s, v = torch.linalg.svd(weight - quantised)
        low = u[:, :rank] @ torch.diag(s[:rank]) @ v[:rank]
    return quantised, low


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loftq_holds_what_the_codes_lose(rounds, family, tmp_path):
    settings = QloraSettings(rank=4, alpha=6.0, start="loftq", loftq_rounds=rounds)
    base = tiny_base(family)
    adapter = QLORA.build(base, settings, 0)
    for layer, (_, change) in zip(base.hooks.linears, adapter.changes(), strict=True):
        quantised, low = plain_loftq(layer.weight_OI, 4, rounds)
        got = adapter.weight_OI(layer)
        torch.testing.assert_close(got, quantised, rtol=0, atol=1e-6)
        torch.testing.assert_close(change.product_OI(), low, rtol=1e-3, atol=1e-5)
        lost = [(layer.weight_OI - x).norm() for x in (got + change.product_OI(), got)]
        assert lost[0] < 0.9 * lost[1]
    plain = QLORA.build(base, QloraSettings(), 0)
    assert (adapter.codes is plain.codes) == (rounds == 1)
    adapter.attach()
    step(base, adapter)
    adapter.save(tmp_path)
    fresh = tiny_base(family)
    QLORA.load(fresh, tmp_path).attach()
    assert torch.equal(logits(fresh), logits(base))
    base.hidden(flatten(DOCS))
