"""Mixout: its closed form in weights, loss and gradient, its mean, and that a step has one mask."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.core.seeds import derive
from domainwright.train.loop import train
from domainwright.train.mixout import Mixout, mixed
from domainwright.train.settings import TrainSettings
from domainwright.train.step import take_step
from tests.methods.test_method_contract import build
from tests.tiny import own_logits, tiny_base
from tests.train.runs import make_job
from tests.train.stopped import same_after_a_stop


def mask(p, seed, step, name, like):
    """μ, by the rule that the module's head states."""
    source = torch.Generator().manual_seed(derive(seed, "mixout", step, name))
    return (torch.empty(like.shape).uniform_(generator=source) < p).float()


def closed_form(p, seed, step, name, value, own):
    mu = mask(p, seed, step, name, value)
    return (mu * own + (1 - mu) * value - p * own) / (1 - p)


def moved_job(method="full", family="llama", dtype=torch.float32, **changes):
    """A job at rate 0 whose adapter is not at its start."""
    base = tiny_base(family, dtype)
    adapter = build(base, method)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=source))
    return make_job("/nowhere", base=base, adapter=adapter, rate=0.0, clip=1e9, **changes)


def step_of(job, step=3):
    """(loss, gradient of every parameter)."""
    parameters = list(job.adapter.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=0.0)
    with job.adapter.attached():
        loss, *_ = take_step(job, optimiser, parameters, step, job.rows[:4])
    return loss, [p.grad.clone() for p in parameters]


@pytest.mark.parametrize("method", ["full", "top_layers", "layernorm"])
def test_a_step_is_that_of_a_model_with_the_mixed_weights(method):
    """The oracle writes θ̃ into a copy of transformers' model; dL/dθ = dL/dθ̃ ⊙ (1 - μ) / (1 - p).

    Llama's embeddings are also its head: one mask for both, or neither loss nor gradient hold.
    """
    job = moved_job(method, mixout=0.7)
    loss, got = step_of(job)
    model = copy.deepcopy(job.base.model)
    names = [name for name, _ in job.adapter.replacements()]
    with torch.no_grad():
        for name, value in job.adapter.replacements():
            own = model.get_parameter(name)
            own.copy_(closed_form(0.7, job.seed, 3, name, value, own.clone()))
    wanted = [model.get_parameter(n).requires_grad_() for n in names]
    total, count = 0.0, 0
    for row in job.rows[:4]:
        marked = [i for i, on in enumerate(row.supervised) if on and i]
        logs = own_logits(model, row.ids)[[i - 1 for i in marked]]
        labels = torch.tensor(row.ids)[marked]
        total = total + functional.cross_entropy(logs, labels, reduction="sum")
        count += len(marked)
    want = total / count
    assert loss == pytest.approx(float(want.detach()), rel=1e-4)
    assert loss != pytest.approx(step_of(moved_job(method))[0], rel=1e-4)
    for name, gradient, pull in zip(names, got, torch.autograd.grad(want, wanted), strict=True):
        pull = pull * (1 - mask(0.7, job.seed, 3, name, pull)) / 0.3
        torch.testing.assert_close(gradient, pull, rtol=1e-3, atol=1e-5 * float(pull.abs().max()))


def test_one_linear_layer_by_hand():
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    own, x = torch.zeros(2, 2), torch.tensor([10.0, 100.0])
    mixout = Mixout(0.5, seed=0, step=0)
    kept = mixout.kept("w", value)
    assert 0 < int(kept.sum()) < 4
    functional.linear(x, mixout("w", value, own)).sum().backward()
    assert torch.equal(value.grad, kept * torch.tensor([[20.0, 200.0], [20.0, 200.0]]))


def test_the_mean_over_masks_is_the_trained_weight():
    source = torch.Generator().manual_seed(0)
    value, own = (torch.randn(40, 30, generator=source) for _ in range(2))
    p, draws = 0.8, 1500
    total, shares = torch.zeros(40, 30), 0.0
    for step in range(draws):
        mixout = Mixout(p, 4, step)
        total += mixout("w", value, own)
        shares += float(mixout.kept("w", value).float().mean())
    assert shares / draws == pytest.approx(1 - p, abs=0.002)
    # Of one entry the variance is (θ - θ₀)² p / (1 - p).
    errors = (total / draws - value) / ((value - own).abs() * (p / (1 - p) / draws) ** 0.5)
    assert 0.9 < float(errors.std()) < 1.1 and abs(float(errors.mean())) < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_weight_that_has_not_moved_is_read_as_the_bases_own(dtype):
    base = tiny_base(dtype=dtype)
    adapter = build(base, "full")
    module = base.model.get_input_embeddings()
    with adapter.attached(), mixed(base, 0.9, 0, 0):
        assert torch.equal(module.weight, module._parameters["weight"])
    value = torch.randn(5, 5)
    nearly = Mixout(1e-9, 0, 0)("w", value, torch.randn(5, 5))
    torch.testing.assert_close(nearly, value, rtol=1e-6, atol=1e-7)


def test_what_is_watched_is_not_mixed():
    job = moved_job(mixout=0.9)
    module = job.base.model.get_input_embeddings()
    with job.adapter.attached():
        plain = module.weight.detach().clone()
        with mixed(job.base, 0.9, 0, 0):
            assert not torch.equal(module.weight, plain)
            with job.base.hooks.disabled():
                assert module.weight is module._parameters["weight"]
        assert torch.equal(module.weight, plain)


@pytest.mark.parametrize("changes", [{}, {"recompute": True}], ids=["plain", "recomputed"])
def test_all_passes_of_a_step_see_one_mask(changes):
    loss, want = step_of(moved_job(mixout=0.6, micro=10_000))
    other, got = step_of(moved_job(mixout=0.6, micro=1, **changes))
    assert loss == pytest.approx(other, rel=1e-5)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    another, _ = step_of(moved_job(mixout=0.6), step=4)
    seeded, _ = step_of(replace(moved_job(mixout=0.6), seed=6))
    assert len({round(x, 4) for x in (loss, another, seeded)}) == 3


def test_stopping_and_going_on_changes_no_bit(tmp_path):
    def job(folder):
        base = tiny_base()
        return make_job(
            folder, base=base, adapter=build(base, "full"), rate=2e-3, steps=9, mixout=0.5
        )

    straight, want = same_after_a_stop(job, tmp_path)
    plain = train(replace(job(tmp_path / "c"), settings=replace(straight.settings, mixout=0.0)))
    assert plain.history[-1]["loss"] != want.history[-1]["loss"]


@pytest.mark.parametrize("method", ["lora", "ia3", "bottleneck", "bitfit"])
def test_a_method_that_adds_is_refused(method, tmp_path):
    """One that also holds new values of some weights, too."""
    base = tiny_base("gpt2")
    settings = {"train_layernorm": True} if method == "bottleneck" else {}
    job = make_job(tmp_path, base=base, adapter=build(base, method, **settings), mixout=0.7)
    with pytest.raises(CapabilityError, match=f"{method} adds to the base") as caught:
        train(job)
    assert "full, top_layers" in caught.value.fix


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(value):
    with pytest.raises(ConfigError, match=r"train\.mixout"):
        TrainSettings(mixout=value)
