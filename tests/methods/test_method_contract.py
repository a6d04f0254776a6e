"""What every tuning method must do. A new file in methods/ is covered at once."""

import gc
import re
import subprocess
import sys
import weakref
from dataclasses import fields
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from domainwright.core.errors import CapabilityError, DataError
from domainwright.infer.generate import answer
from domainwright.methods import METHODS
from domainwright.models.flat import flatten
from domainwright.train.loss import summed_loss
from domainwright.train.recompute import recomputed
from tests.methods.closed_forms import counted
from tests.tiny import CONFIGS, documents, tiny_base

FAMILIES = list(CONFIGS)
REFUSED = {
    "bitfit": {"llama", "qwen3", "mistral", "gemma", "gemma2", "phi3", "mamba"},
    "ia3": {"mamba"},
    "prefix": {"mamba"},
    "prompt": {"mamba"},
    "ptuning": {"mamba"},
    "ptuning_v2": {"mamba"},
    "multitask_prompt": {"mamba"},
    "mix_and_match": {"mamba"},
    "compacter": {"mamba"},
}
"""Families that a method refuses, because they have no such place. All others must pass."""
DOCS = documents((9, 4, 13))


def weights_of(folder):
    """The adapter's own file: PEFT's or adapter-hub's name of it."""
    (file,) = folder.glob("adapter*.safetensors")
    return file


def logits(base):
    flat = flatten(DOCS)
    return base.logits(flat, torch.arange(flat.tokens))


def build(base, name, seed=0, **settings):
    method = METHODS.get(name)
    return method.build(base, method.Settings(**settings), seed)


def family_of(name):
    """A family that the method takes."""
    return next(f for f in ("llama", *FAMILIES) if f not in REFUSED.get(name, ()))


PAIRS = [(n, f) for n in METHODS.names() for f in FAMILIES if f not in REFUSED.get(n, ())]
SOME = [(n, f) for n, f in PAIRS if f in ("llama", "gemma2", "mistral", "gpt2", "mamba")]
each_pair = pytest.mark.parametrize(("name", "family"), PAIRS)
each_method = pytest.mark.parametrize("name", METHODS.names())


def step(base, adapter, times=2):
    """Optimiser steps on next-token prediction; returns the names of tensors that moved."""
    start = {n: p.detach().clone() for n, p in adapter.named_parameters()}
    optimiser = torch.optim.AdamW([p for p in adapter.parameters() if p.requires_grad], lr=0.05)
    flat = flatten(DOCS)
    for _ in range(times):
        optimiser.zero_grad()
        rows = base.logits(flat, torch.arange(flat.tokens - 1)).float()
        torch.nn.functional.cross_entropy(rows, flat.ids_T[1:]).backward()
        optimiser.step()
    return {n for n, p in adapter.named_parameters() if not torch.equal(p, start[n])}


def tuned(base, name, **settings):
    adapter = build(base, name, **settings)
    adapter.attach()
    step(base, adapter)
    return adapter


@each_method
def test_says_what_it_is(name):
    method = METHODS.get(name)
    assert method.summary.endswith(".") and method.parameter_formula and method.version >= 1
    assert {"small", "large"} == set(method.learning_rate)
    assert method.peft_type is None or method.peft_type in peft.PeftType.__members__
    adapter = build(tiny_base(family_of(name)), name)
    assert (adapter.method, adapter.version) == (name, method.version)
    modules = [sys.modules[c.__module__] for c in method.Settings.__mro__[:-1]]
    text = "".join(Path(m.__file__).read_text() for m in modules)
    for field in fields(method.Settings):
        assert re.search(rf"^    {field.name}: .*\n    \"\"\"", text, re.MULTILINE), field.name
    groups = adapter.rate_groups()
    assert {id(p) for group, _ in groups for p in group} == {id(p) for p in adapter.parameters()}
    assert sum(len(group) for group, _ in groups) == len(list(adapter.parameters()))


@each_method
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_taken_or_refused_with_the_reason(name, family):
    base = tiny_base(family)
    if family not in REFUSED.get(name, ()):
        assert build(base, name).trainable == counted(name, base)
        return
    with pytest.raises(CapabilityError) as caught:
        build(base, name)
    assert f"tiny-{family}" in caught.value.cause and "choose" in caught.value.fix


@each_pair
def test_the_life_of_an_adapter(name, family):
    """Starts as promised, trains all of its own and nothing else, and leaves without a trace."""
    base = tiny_base(family)
    frozen = {k: v.clone() for k, v in base.model.state_dict().items()}
    before = logits(base)
    adapter = build(base, name)
    adapter.attach()
    with torch.no_grad():
        # An evaluation pass: a cache filled here must not be reused in training.
        same = torch.allclose(logits(base), before, rtol=0, atol=2e-5)
    assert same == METHODS.get(name).identity_start
    # Two steps, not one: LoRA starts with B = 0, so A has no gradient in step one.
    moved = step(base, adapter)
    assert moved == {n for n, _ in adapter.named_parameters()} and moved
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())
    state = base.model.state_dict()
    assert state.keys() == frozen.keys()
    assert all(torch.equal(v, frozen[k]) for k, v in state.items())
    adapted = logits(base)
    assert (adapted - before).abs().max() > 1e-3
    with base.hooks.disabled():
        assert torch.equal(logits(base), before)
    adapter.detach()
    assert torch.equal(logits(base), before)
    adapter.attach()
    adapter.attach()
    assert torch.equal(logits(base), adapted)
    # Packed, every document is as if it were alone.
    single = [base.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for ids in DOCS]
    torch.testing.assert_close(adapted, torch.cat(single), rtol=0, atol=2e-4)
    with recomputed(base):
        again = gradients(base, adapter)
    for a, b in zip(again, gradients(base, adapter), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(b.abs().max()) + 1e-9)


def gradients(base, adapter):
    flat = flatten(DOCS)
    rows = base.logits(flat, torch.arange(flat.tokens - 1)).float()
    loss = torch.nn.functional.cross_entropy(rows, flat.ids_T[1:])
    return torch.autograd.grad(loss, list(adapter.parameters()))


@each_method
def test_a_detached_adapter_is_gone_with_its_last_name(name):
    """Not when circles are looked for next: of a full run that is more memory than the base."""
    base = tiny_base(family_of(name))
    gc.collect()
    gc.disable()
    try:
        adapter = build(base, name)
        with adapter.attached():
            step(base, adapter, times=1)
        left = weakref.ref(adapter)
        del adapter
        assert left() is None
    finally:
        gc.enable()


@each_method
def test_the_loss_of_the_loop_gives_the_same_gradients(name):
    """The loop's loss head makes its gradient by hand; it must not forget a trained head."""
    base = tiny_base(family_of(name))
    adapter = tuned(base, name)
    flat = flatten(DOCS)
    rows = torch.arange(flat.tokens - 1)
    loss = summed_loss(base, flat, rows, flat.ids_T[1:]) / len(rows)
    got = torch.autograd.grad(loss, list(adapter.parameters()))
    for a, b in zip(got, gradients(base, adapter), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()) + 1e-9)


@each_method
def test_the_seed_decides_a_drawn_start_and_nothing_else(name):
    family = family_of(name)
    states = [build(tiny_base(family), name, seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    differs = any(not torch.equal(states[0][k], states[2][k]) for k in states[0])
    assert differs == METHODS.get(name).random_start


@pytest.mark.parametrize(
    ("name", "family", "dtype"),
    [(*p, torch.float32) for p in PAIRS] + [(*p, torch.bfloat16) for p in SOME],
    ids=str,
)
def test_merging_keeps_the_logits(name, family, dtype):
    method = METHODS.get(name)
    base = tiny_base(family, dtype)
    if not method.merge_rtol:
        with pytest.raises(CapabilityError, match="cannot be merged"):
            next(build(base, name).merged_parameters())
        return
    adapter = tuned(base, name)
    want = logits(base)
    merged = dict(adapter.merged_parameters())
    adapter.detach()
    for path, weight in merged.items():
        parameter = base.model.get_parameter(path)
        assert (weight.dtype, weight.shape) == (parameter.dtype, parameter.shape)
        assert weight.is_contiguous() and not weight.requires_grad
        parameter.copy_(weight)
    error = (logits(base) - want).float().norm() / want.float().norm()
    assert error <= method.merge_rtol[dtype]


@each_method
def test_two_adapters_share_a_batch_or_say_that_they_cannot(name):
    """Each acts on its own rows, as if it were alone."""
    base = tiny_base(family_of(name))
    flat = flatten(DOCS)
    chosen = torch.arange(flat.tokens)
    owners = []
    for times in (1, 2):
        owner = build(base, name)
        with owner.attached():
            step(base, owner, times)
        owners.append(owner)
    want = []
    for owner in owners:
        with owner.attached():
            want.append(base.hidden(flat, chosen).detach())
    try:
        for owner in owners:
            owner.attach()
        got = base.hidden_of_each(owners, flat, chosen)
    except CapabilityError as error:
        assert not owner.shares_batch
        assert "batch" in error.fix or "detach" in error.fix
        return
    assert owner.shares_batch and (want[0] - want[1]).abs().max() > 1e-4
    torch.testing.assert_close(got, torch.stack(want), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "family"), SOME)
def test_answers_with_the_cache_equal_answers_without(name, family):
    base = tiny_base(family)
    step(base, tuned(base, name), 6)  # far enough that the answers are others than the base's
    got = answer(base, DOCS, new_tokens=8)
    plain = answer_without_cache(base, DOCS, 8)
    assert [a.ids for a in got] == plain
    with base.hooks.disabled():
        assert plain != answer_without_cache(base, DOCS, 8)


@each_method
class TestTheFilesOfEveryMethod:
    def test_a_missing_or_surplus_tensor_is_refused(self, name, tmp_path):
        family, load = family_of(name), METHODS.get(name).load
        tuned(tiny_base(family), name).save(tmp_path)
        weights = weights_of(tmp_path)
        tensors = load_file(weights)
        gone = sorted(tensors)[len(tensors) // 2]
        save_file({k: v for k, v in tensors.items() if k != gone}, weights)
        with pytest.raises(DataError, match="lacks") as caught:
            load(tiny_base(family), tmp_path)
        assert gone.removeprefix("base_model.model.") in str(caught.value)
        for surplus in (gone + "x", "model.layers.7.mlp.up_proj.lora_A.weight", "other"):
            save_file({**tensors, surplus: tensors[gone].clone()}, weights)
            with pytest.raises(DataError):
                load(tiny_base(family), tmp_path)
        save_file({**tensors, gone: tensors[gone][:0].contiguous()}, weights)
        with pytest.raises(DataError, match="has the shape"):
            load(tiny_base(family), tmp_path)

    def test_another_base_is_refused(self, name, tmp_path):
        family = family_of(name)
        tuned(tiny_base(family), name).save(tmp_path)
        with pytest.raises(DataError, match=f"was trained on 'tiny-{family}'"):
            METHODS.get(name).load(tiny_base(family, seed=1), tmp_path)

    def test_another_method_is_refused(self, name, tmp_path):
        family = family_of(name)
        tuned(tiny_base(family), name).save(tmp_path)
        for other in METHODS.names():
            if other != name and family not in REFUSED.get(other, ()):
                with pytest.raises(DataError):
                    METHODS.get(other).load(tiny_base(family), tmp_path)

    def test_a_damaged_folder_is_refused(self, name, tmp_path):
        load, family = METHODS.get(name).load, family_of(name)
        tuned(tiny_base(family), name).save(tmp_path)
        weights, config = weights_of(tmp_path), tmp_path / "adapter_config.json"
        data, text = weights.read_bytes(), config.read_text()
        weights.write_bytes(data[:-10])
        with pytest.raises(DataError, match="is damaged"):
            load(tiny_base(family), tmp_path)
        weights.write_bytes(data)
        config.write_text(text[:-10])
        with pytest.raises(DataError, match="cannot be read"):
            load(tiny_base(family), tmp_path)
        config.unlink()
        with pytest.raises(DataError, match=r"lacks adapter_config\.json"):
            load(tiny_base(family), tmp_path)


def answer_without_cache(base, prompts, new_tokens):
    """The whole sequence is read again for every token."""
    written = []
    for prompt in prompts:
        ids = list(prompt)
        while len(ids) < len(prompt) + new_tokens:
            with torch.no_grad():
                rows = base.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            token = int(rows[-1].argmax())
            if token in base.template.stops:
                break
            ids.append(token)
        written.append(ids[len(prompt) :])
    return written


CHILD = """
import sys, torch
from pathlib import Path
from domainwright.methods import METHODS
from tests.methods.test_method_contract import logits
from tests.tiny import tiny_base

wrong = []
for folder in sorted(Path(sys.argv[1]).iterdir()):
    name, family = folder.name.split("@")
    base = tiny_base(family)
    METHODS.get(name).load(base, folder).attach()
    if not torch.equal(logits(base), torch.load(folder / "want.pt")):
        wrong.append(folder.name)
print("differ:", wrong)
"""


def test_saved_adapters_give_the_same_logits_in_a_new_process(tmp_path):
    for name in METHODS.names():
        for family in {"llama", "gpt2", "phi3", "mamba"} - REFUSED.get(name, set()):
            base, folder = tiny_base(family), tmp_path / f"{name}@{family}"
            tuned(base, name).save(folder)
            torch.save(logits(base).detach(), folder / "want.pt")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1:] == ["differ: []"], done.stdout + done.stderr
