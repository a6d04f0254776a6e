"""Smoothing, weights of prompts, nearness to the base, two readings: each against autograd."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from domainwright.core.errors import ConfigError, UnknownName
from domainwright.train import loss as loss_head
from domainwright.train.loop import train
from domainwright.train.penalties.kl import KlPenalty
from domainwright.train.settings import DistilSettings, TrainSettings
from domainwright.train.shaped import Shape, Shaped, _Asked, _Loss, shaped_batch, shaped_loss
from domainwright.train.step import take_step
from tests.methods.test_method_contract import tuned
from tests.tiny import own_logits, tiny_base, train_rows
from tests.train.runs import make_job


def tables(base, rows):
    """(logits, base's logits, labels, whether supervised) of every token with one before it."""
    found = []
    for row in rows:
        mine = own_logits(base.model, row.ids)[:-1]
        with torch.no_grad(), base.hooks.disabled():
            found.append((mine, own_logits(base.model, row.ids)[:-1]))
    mine, bare = (torch.cat(x) for x in zip(*found, strict=True))
    labels = torch.tensor([t for row in rows for t in row.ids[1:]])
    on = torch.tensor([x for row in rows for x in row.supervised[1:]])
    return mine, bare, labels, on


def wanted(base, rows, shape, prompt_weight):
    """The formula with torch's own losses, one term after the other."""
    mine, bare, labels, on = tables(base, rows)
    weights = torch.where(on, 1.0, prompt_weight)
    plain = functional.cross_entropy(
        mine, labels, reduction="none", label_smoothing=shape.smoothing
    )
    apart = functional.kl_div(
        mine.log_softmax(1), bare.log_softmax(1), log_target=True, reduction="none"
    ).sum(1)
    return (weights * (plain + shape.anchor * apart)).sum(), (weights * apart).sum()


@pytest.mark.parametrize("family", ["llama", "phi", "gemma2", "gpt2", "mamba"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(
    ("shape", "prompt_weight"),
    [(Shape(smoothing=0.2), 0.0), (Shape(anchor=0.7), 0.3), (Shape(0.1, 0.4), 1.0)],
    ids=["smoothing", "base and prompts", "all"],
)
def test_a_shaped_loss_equals_autograd(family, method, shape, prompt_weight, monkeypatch):
    """A plain head, one with a bias, a capped one, a trained one; blocks smaller than the batch."""
    monkeypatch.setattr(loss_head, "BLOCK", 4)
    base = tiny_base(family)
    adapter = tuned(base, method)
    rows = train_rows((7, 12, 5), prompt=3)
    # The second begins as the first one does: read once, learned by both.
    rows[1] = replace(rows[1], ids=rows[0].ids[:4] + rows[1].ids[4:])
    parameters = list(adapter.parameters())
    read = shaped_batch(base, rows, 1, prompt_weight, apart=False)
    loss, parts = shaped_loss(base, read, shape)
    got = torch.autograd.grad(3 * loss, parameters)
    want_loss, want_apart = wanted(base, rows, shape, prompt_weight)
    want = torch.autograd.grad(3 * want_loss, parameters)
    torch.testing.assert_close(loss, want_loss, rtol=1e-4, atol=1e-4)
    if shape.anchor:
        assert float(parts[1]) == pytest.approx(want_apart.item(), rel=1e-3)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4 * float(b.abs().max()) + 1e-6)


def test_smoothing_averages_over_real_tokens_only():
    """What is masked by its place is never part of the mean, as with torch's ignore_index."""
    base, rows = tiny_base(), train_rows((7, 12))
    loss, _ = shaped_loss(base, shaped_batch(base, rows, 1, 0.0, apart=False), Shape(smoothing=0.1))
    mine, _, labels, on = tables(base, rows)
    want = functional.cross_entropy(
        mine, torch.where(on, labels, -100), ignore_index=-100, label_smoothing=0.1
    )
    assert loss.item() / sum(r.targets for r in rows) == pytest.approx(want.item(), rel=1e-5)


def test_two_readings_are_pulled_together_as_in_the_paper():
    """CE₁ + CE₂ + α · ½ (KL(p₁‖p₂) + KL(p₂‖p₁)), with weights, from logits; and their gradient."""
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, 30, generator=source, requires_grad=True)
    labels, weights = torch.arange(9), torch.linspace(0, 1, 9)
    loss, parts = _Loss.apply(
        logits, *[None] * 4, _Asked(Shape(agreement=1.7), labels, weights, None)
    )
    (got,) = torch.autograd.grad(loss, logits)
    first, second = (z.log_softmax(1) for z in logits)
    both = [functional.cross_entropy(z, labels, reduction="none") for z in logits]
    there = functional.kl_div(second, first, log_target=True, reduction="none").sum(1)
    back = functional.kl_div(first, second, log_target=True, reduction="none").sum(1)
    want = (weights * (both[0] + both[1] + 1.7 * (there + back) / 2)).sum()
    (gradient,) = torch.autograd.grad(want, logits)
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-6)
    assert float(parts[2]) == pytest.approx((weights * (there + back) / 2).sum().item(), rel=1e-4)


def test_without_noise_two_readings_agree_and_count_twice():
    base = tiny_base()
    tuned(base, "lora")
    rows = train_rows((7, 12))
    twice, parts = shaped_loss(
        base, shaped_batch(base, rows, 2, 0.0, apart=True), Shape(agreement=1)
    )
    once, _ = shaped_loss(base, shaped_batch(base, rows, 1, 0.0, apart=True), Shape())
    assert twice.item() == pytest.approx(2 * once.item(), rel=1e-5)
    assert float(parts[2]) == pytest.approx(0, abs=1e-5)


def test_a_token_of_no_weight_changes_nothing():
    base, rows = tiny_base(), train_rows((7,))
    batch, weights = shaped_batch(base, rows, 1, 0.5, apart=False)
    none = Shaped(batch, torch.zeros_like(weights))
    assert float(shaped_loss(base, none, Shape(anchor=1.0))[0]) == 0
    assert weights.tolist() == [0.5] + 5 * [1.0]


def gradient_of(job, step=0, rows=None):
    """(mean loss, told, gradient) of one step at rate 0 of a state that is not the start."""
    job.adapter.attach()
    with torch.no_grad():
        for b in job.adapter.B:
            b.copy_(torch.linspace(-0.1, 0.1, b.numel()).view(b.shape))
    told = {}
    parameters = list(job.adapter.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=0.0)
    job = replace(job, learning_rate=0.0)
    loss, _, tokens = take_step(job, optimiser, parameters, step, rows or job.rows[:4], told)
    job.adapter.detach()
    return loss, told, [p.grad.clone() for p in parameters], tokens


@pytest.mark.parametrize("changes", [{"prompt_weight": 0.2}, {"label_smoothing": 0.1}, {"kl": 0.5}])
def test_the_size_of_a_pass_changes_no_gradient(changes):
    def at(micro):
        own = dict(changes)
        job = make_job("/nowhere", micro=micro, clip=1e9)
        anchor = own.pop("kl", None)
        return replace(
            job,
            settings=replace(job.settings, **own),
            penalties=[KlPenalty(anchor)] if anchor else [],
        )

    loss, told, want, tokens = gradient_of(at(10_000))
    other, told_too, got, _ = gradient_of(at(9))
    assert loss == pytest.approx(other, rel=1e-5) and told == pytest.approx(told_too, rel=1e-4)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    assert tokens == sum(len(r.ids) for r in make_job("/nowhere").rows[:4])


def test_the_normaliser_is_the_sum_of_the_weights():
    job = make_job("/nowhere", prompt_weight=0.25, clip=1e9)
    loss, *_ = gradient_of(job)
    with job.adapter.attached():
        want, _ = wanted(job.base, job.rows[:4], Shape(), 0.25)
        _, _, _, on = tables(job.base, job.rows[:4])
    assert loss == pytest.approx(want.item() / float(torch.where(on, 1.0, 0.25).sum()), rel=1e-4)


def test_settings_that_are_off_change_no_bit(tmp_path):
    off = {"prompt_weight": 0.0, "label_smoothing": 0.0, "neftune": 0.0, "r_drop": 0.0}
    jobs = [make_job(tmp_path / "a", steps=4), make_job(tmp_path / "b", steps=4, **off)]
    first, second = (train(job) for job in jobs)
    assert [x.get("loss") for x in first.history] == [x.get("loss") for x in second.history]
    for a, b in zip(*(job.adapter.parameters() for job in jobs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_weight": 0.1, "label_smoothing": 0.1},
        {"r_drop": 1.0, "method": {"rank": 4, "dropout": 0.2}},
        {"r_drop": 1.0, "neftune": 5.0},
    ],
    ids=str,
)
def test_a_run_learns_and_says_what_it_measured(tmp_path, changes):
    job = make_job(tmp_path, steps=5, **changes)
    trained = train(job)
    assert trained.best_loss < trained.base_loss
    if "r_drop" in changes:
        # Before the first step LoRA's change is zero, dropped or not.
        assert all(line["r_drop"] > 0 for line in trained.history[2:])
        plain = train(make_job(tmp_path / "plain", steps=5))
        assert trained.tokens == 2 * plain.tokens


def test_two_equal_readings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing in a lora run is random") as caught:
        train(make_job(tmp_path, r_drop=1.0))
    assert "dropout: 0.1" in caught.value.fix and "neftune" in caught.value.fix


@pytest.mark.parametrize(
    "wrong",
    [
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"prompt_weight": 1.5},
        {"neftune": float("nan")},
        {"r_drop": -1.0},
        {"label_smoothing": 0.1, "head": True},
        {"prompt_weight": 0.1, "distil": DistilSettings()},
        {"r_drop": 1.0, "distil": DistilSettings()},
        {"penalties": {"kl": {}}, "head": True},
        {"penalties": {"kl": {"weight": 0.0}}},
        {"penalties": {"kll": {}}},
        {"penalties": {"kl": {"wait": 1.0}}},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises((ConfigError, UnknownName)) as caught:
        TrainSettings(**wrong)
    assert caught.value.fix


def test_defaults_of_a_penalty_are_written_out():
    assert TrainSettings(penalties={"kl": None}).penalties == {"kl": {"weight": 0.3}}
    assert TrainSettings(prompt_weight=1.0, penalties={"kl": {"weight": 1}}).prompt_weight == 1
