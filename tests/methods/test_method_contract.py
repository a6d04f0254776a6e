"""What every tuning method must do. A new file in methods/ is covered at once."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from domainwright.core.errors import DataError
from domainwright.infer.generate import answer
from domainwright.methods import METHODS
from domainwright.models.flat import flatten
from tests.tiny import CONFIGS, documents, tiny_base

FAMILIES = list(CONFIGS)
DOCS = documents((9, 4, 13))
WEIGHTS = "adapter_model.safetensors"


def logits(base):
    flat = flatten(DOCS)
    return base.logits(flat, torch.arange(flat.tokens))


def build(base, name, seed=0, **settings):
    method = METHODS.get(name)
    return method.build(base, method.Settings(**settings), seed)


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


@pytest.mark.parametrize("name", METHODS.names())
class TestEveryMethod:
    def test_says_what_it_is(self, name):
        method = METHODS.get(name)
        assert method.summary.endswith(".") and method.parameter_formula and method.version >= 1
        assert {"small", "large"} == set(method.learning_rate)
        text = Path(sys.modules[method.__module__].__file__).read_text()
        for field in fields(method.Settings):
            assert f"{field.name}:" in text
        adapter = build(tiny_base(), name)
        assert (adapter.method, adapter.version) == (name, method.version)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_is_the_base_before_the_first_step(self, name, family):
        base = tiny_base(family)
        before = logits(base)
        with build(base, name).attached():
            torch.testing.assert_close(logits(base), before, rtol=0, atol=1e-5)
        assert torch.equal(logits(base), before)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_trains_every_tensor_of_its_own_and_nothing_else(self, name, family):
        """Also after an evaluation pass: a cache filled there must not be reused in training."""
        base = tiny_base(family)
        frozen = {k: v.clone() for k, v in base.model.state_dict().items()}
        before = logits(base)
        adapter = build(base, name)
        adapter.attach()
        with torch.no_grad():
            logits(base)
        # Two steps, not one: LoRA starts with B = 0, so A has no gradient in step one.
        moved = step(base, adapter)
        assert moved == {n for n, _ in adapter.named_parameters()} and moved
        assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())
        assert all(torch.equal(v, frozen[k]) for k, v in base.model.state_dict().items())
        adapted = logits(base)
        assert (adapted - before).abs().max() > 1e-3
        with base.hooks.disabled():
            assert torch.equal(logits(base), before)
        adapter.detach()
        assert torch.equal(logits(base), before)
        adapter.attach()
        adapter.attach()
        assert torch.equal(logits(base), adapted)

    def test_the_same_seed_gives_the_same_start(self, name):
        states = [build(tiny_base(), name, seed).state_dict() for seed in (1, 1, 2)]
        assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
        assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("family", FAMILIES)
    def test_merging_keeps_the_logits(self, name, family, dtype):
        method = METHODS.get(name)
        if not method.merge_rtol:
            pytest.skip(f"{name} cannot be merged, and says so")
        base = tiny_base(family, dtype)
        adapter = tuned(base, name)
        want = logits(base)
        merged = dict(adapter.merged_weights())
        adapter.detach()
        for path, weight in merged.items():
            parameter = base.model.get_parameter(f"{path}.weight")
            assert (weight.dtype, weight.shape) == (parameter.dtype, parameter.shape)
            assert weight.is_contiguous() and not torch.equal(weight, parameter)
            parameter.copy_(weight)
        error = (logits(base) - want).float().norm() / want.float().norm()
        assert error <= method.merge_rtol[dtype]

    @pytest.mark.parametrize("family", ["llama", "gemma2", "mistral", "gpt2", "mamba"])
    def test_answers_with_the_cache_equal_answers_without(self, name, family):
        base = tiny_base(family)
        tuned(base, name)
        got = answer(base, DOCS, new_tokens=8)
        plain = answer_without_cache(base, DOCS, 8)
        assert [a.ids for a in got] == plain
        with base.hooks.disabled():
            assert plain != answer_without_cache(base, DOCS, 8)

    def test_a_missing_or_surplus_tensor_is_refused(self, name, tmp_path):
        base = tiny_base()
        tuned(base, name).save(tmp_path)
        tensors = load_file(tmp_path / WEIGHTS)
        gone = sorted(tensors)[3]
        save_file({k: v for k, v in tensors.items() if k != gone}, tmp_path / WEIGHTS)
        with pytest.raises(DataError, match="lacks") as caught:
            METHODS.get(name).load(tiny_base(), tmp_path)
        assert gone.removeprefix("base_model.model.") in str(caught.value)
        for surplus in (gone + "x", gone.replace("layers.0", "layers.7"), "other"):
            save_file({**tensors, surplus: tensors[gone].clone()}, tmp_path / WEIGHTS)
            with pytest.raises(DataError):
                METHODS.get(name).load(tiny_base(), tmp_path)
        save_file({**tensors, gone: tensors[gone][:-1].contiguous()}, tmp_path / WEIGHTS)
        with pytest.raises(DataError, match="has the shape"):
            METHODS.get(name).load(tiny_base(), tmp_path)

    def test_another_base_is_refused(self, name, tmp_path):
        tuned(tiny_base(), name).save(tmp_path)
        with pytest.raises(DataError, match="was trained on 'tiny-llama'"):
            METHODS.get(name).load(tiny_base(seed=1), tmp_path)

    def test_a_damaged_folder_is_refused(self, name, tmp_path):
        load = METHODS.get(name).load
        tuned(tiny_base(), name).save(tmp_path)
        weights, config = tmp_path / WEIGHTS, tmp_path / "adapter_config.json"
        data, text = weights.read_bytes(), config.read_text()
        weights.write_bytes(data[:-10])
        with pytest.raises(DataError, match="is damaged"):
            load(tiny_base(), tmp_path)
        weights.write_bytes(data)
        config.write_text(text[:-10])
        with pytest.raises(DataError, match="cannot be read"):
            load(tiny_base(), tmp_path)
        config.unlink()
        with pytest.raises(DataError, match=r"lacks adapter_config\.json"):
            load(tiny_base(), tmp_path)


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
        for family in ("llama", "gpt2", "gemma2", "phi3"):
            base, folder = tiny_base(family), tmp_path / f"{name}@{family}"
            tuned(base, name).save(folder)
            torch.save(logits(base).detach(), folder / "want.pt")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1:] == ["differ: []"], done.stdout + done.stderr
