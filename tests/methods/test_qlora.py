"""QLoRA: the same on a quantised base and on a full one, its files, and its three merges."""

import json
import logging

import peft
import pytest
import torch

from domainwright.core.errors import ConfigError, DataError
from domainwright.methods import METHODS
from domainwright.methods.lora import LoraSettings
from domainwright.methods.qlora import MERGES, QloraSettings
from domainwright.models.flat import flatten
from tests.methods.test_lora import TARGETS, peft_logits, peft_model
from tests.methods.test_method_contract import DOCS, gradients, logits, step, tuned
from tests.models.test_quantised import dense_twin, quantised_base
from tests.tiny import CONFIGS, tiny_base

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
QLORA, LORA = METHODS.get("qlora"), METHODS.get("lora")
FP4 = {"quantise": "fp4", "double_quantise": False}


def with_random_factors(adapter, seed=0):
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=source))
    adapter.attach()
    return adapter


@pytest.mark.parametrize(("family", "settings"), [*((f, {}) for f in CONFIGS), ("gpt2", FP4)])
def test_a_full_base_computes_as_the_quantised_one(family, settings):
    kind, double = settings.get("quantise", "nf4"), not settings
    full, codes = tiny_base(family), quantised_base(family, kind=kind, double=double)
    found = []
    for base in (full, codes):
        adapter = with_random_factors(QLORA.build(base, QloraSettings(rank=3, **settings), 0))
        found.append((logits(base).detach(), *gradients(base, adapter)))
    assert adapter.codes is None  # the base has them
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_the_fused_trunk_reads_codes_in_the_place_of_weights():
    base = tiny_base()
    adapter = with_random_factors(QLORA.build(base, QloraSettings(targets=("q", "down")), 0))
    assert base.trunk.hidden(flatten(DOCS), None) is not None
    fast = (logits(base).detach(), *gradients(base, adapter))
    base.trunk = None
    for a, b in zip(fast, (logits(base).detach(), *gradients(base, adapter)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_two_adapters_hold_one_set_of_codes():
    base = tiny_base()
    one, two = (QLORA.build(base, QloraSettings(), seed) for seed in (0, 1))
    assert one.codes is two.codes
    # Together on all rows their changes add up, over the same weights.
    with_random_factors(one)
    alone = logits(base)
    with_random_factors(two, seed=1)
    both = logits(base)
    one.detach()
    assert not torch.allclose(both, alone) and not torch.allclose(logits(base), both)


@pytest.mark.parametrize("family", CONFIGS)
def test_peft_reads_our_folder_over_the_dequantised_weights(family, tmp_path):
    base = tiny_base(family)
    adapter = tuned(base, "qlora", rank=3, targets=TARGETS.get(family, ("all-linear",)))
    adapter.save(tmp_path)
    model = peft.PeftModel.from_pretrained(dense_twin(family).model, tmp_path).eval()
    torch.testing.assert_close(logits(base), peft_logits(model), rtol=0, atol=5e-5)
    noted = json.loads((tmp_path / "domainwright.json").read_text())
    assert noted["settings"]["quantise"] == "nf4" and noted["settings"]["double_quantise"]
    assert "quantised" not in noted


def test_a_folder_of_peft_is_read(tmp_path):
    peft_model("llama", target_modules="all-linear").save_pretrained(tmp_path)
    base, twin = tiny_base(), dense_twin()
    QLORA.load(base, tmp_path).attach()
    LORA.load(twin, tmp_path).attach()
    torch.testing.assert_close(logits(base), logits(twin), rtol=0, atol=1e-5)


def test_loading_keeps_how_it_was_quantised(tmp_path):
    base = tiny_base()
    tuned(base, "qlora", **FP4).save(tmp_path)
    want = logits(base)
    fresh = tiny_base()
    loaded = QLORA.load(fresh, tmp_path)
    assert (loaded.settings.quantise, loaded.settings.double_quantise) == ("fp4", False)
    loaded.attach()
    assert torch.equal(logits(fresh), want)
    codes = quantised_base(kind="fp4", double=False)
    QLORA.load(codes, tmp_path).attach()
    torch.testing.assert_close(logits(codes), want, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="was loaded with nf4 with doubly"):
        QLORA.load(quantised_base(), tmp_path)


def test_an_adapter_notes_the_codes_it_was_trained_over(tmp_path):
    tuned(quantised_base(), "lora", rank=2).save(tmp_path)
    noted = json.loads((tmp_path / "domainwright.json").read_text())
    assert noted["quantised"] == ["nf4", True]
    with pytest.raises(DataError, match="holds 'lora@1', not 'qlora'"):
        QLORA.load(tiny_base(), tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quantise": "fp4"}, "was loaded with nf4"),
        ({"double_quantise": False}, "without doubly quantised scales"),
        ({"start": "loftq"}, "holds no weights but codes"),
    ],
    ids=str,
)
def test_what_a_quantised_base_cannot_do_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said) as caught:
        QLORA.build(quantised_base(), QloraSettings(**settings), 0)
    assert "load the base without `quantise`" in caught.value.fix


def merged_base(adapter, mode, family):
    base = tiny_base(family)
    for name, weight in adapter.merged_parameters(mode):
        parameter = base.model.get_parameter(name)
        assert (weight.shape, weight.dtype) == (parameter.shape, parameter.dtype)
        parameter.copy_(weight)
    return base


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_merge_adds_to_what_it_says(family):
    functional = pytest.importorskip("bitsandbytes").functional
    base = tiny_base(family)
    adapter = with_random_factors(QLORA.build(base, QloraSettings(rank=2, targets=("up",)), 0))
    measured = logits(base).detach()
    merged = {mode: merged_base(adapter, mode, family) for mode in MERGES}
    apart = {mode: float((logits(m) - measured).norm()) for mode, m in merged.items()}
    assert apart["dequant16"] < 1e-5 * float(measured.norm())
    assert min(apart["original16"], apart["requant4"]) > 100 * apart["dequant16"]
    # original16 is the same change as LoRA's on the base's own weights.
    adapter.detach()
    plain = LORA.build(base, LoraSettings(rank=2, targets=("up",)), 0)
    with_random_factors(plain)
    torch.testing.assert_close(logits(merged["original16"]), logits(base), rtol=0, atol=5e-5)
    plain.detach()
    # requant4 is what bitsandbytes makes of the merge dequant16.
    linears = zip(merged["dequant16"].hooks.linears, merged["requant4"].hooks.linears, strict=True)
    for once, twice in linears:
        want = once.weight_OI
        if once.point == "up":
            # In rows of a block: its CPU kernel misreads the scales of rows of 32.
            rows = want.reshape(-1, 64)
            packed, state = functional.quantize_4bit(
                rows, quant_type="nf4", compress_statistics=True
            )
            want = functional.dequantize_4bit(packed, state).view(want.shape)
        assert torch.equal(twice.weight_OI, want)


def test_merging_over_codes_knows_what_is_gone():
    base = quantised_base()
    adapter = with_random_factors(QLORA.build(base, QloraSettings(), 0))
    measured = logits(base)
    torch.testing.assert_close(
        logits(merged_base(adapter, "dequant16", "llama")), measured, rtol=0, atol=1e-4
    )
    with pytest.raises(ConfigError, match="the base holds codes alone"):
        next(adapter.merged_parameters("original16"))
    with pytest.raises(ConfigError, match="use one of: dequant16"):
        next(adapter.merged_parameters("int8"))


def test_training_on_codes_lowers_the_loss():
    base = quantised_base()
    adapter = QLORA.build(base, QloraSettings(rank=4), 0)
    flat = flatten(DOCS)

    def loss():
        with torch.no_grad():
            rows = base.logits(flat, torch.arange(flat.tokens - 1)).float()
        return float(torch.nn.functional.cross_entropy(rows, flat.ids_T[1:]))

    before = loss()
    codes = base.hooks.linears[0].module.packed.clone()
    with adapter.attached():
        step(base, adapter, 8)
        assert loss() < before - 0.5
    assert loss() == before and torch.equal(base.hooks.linears[0].module.packed, codes)


@pytest.mark.parametrize("rounds", [0, 6])
def test_rounds_out_of_range_are_refused(rounds):
    with pytest.raises(ConfigError, match="loftq_rounds"):
        QloraSettings(loftq_rounds=rounds)
