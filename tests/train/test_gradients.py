"""The loss head, the gradient of a step, the schedules: against autograd, PEFT and transformers."""

import math

import peft
import pytest
import torch
import transformers
from torch.nn import functional

from domainwright.methods import METHODS
from domainwright.methods.lora import LoraSettings
from domainwright.models.flat import flatten
from domainwright.models.forms import TrainRow
from domainwright.train import loop, loss, order, schedule
from domainwright.train.loss import batch_of, summed_loss
from tests.tiny import CONFIGS, documents, own_logits, tiny_base, tiny_model, train_rows
from tests.train.runs import LENGTHS, make_job


@pytest.mark.parametrize("family", ["llama", "phi", "gemma2", "mamba"])
@pytest.mark.parametrize("block", [256, 3])
def test_the_loss_head_equals_autograd(family, block, monkeypatch):
    """phi's head has a bias; gemma2 caps its logits; mamba is fed one by one."""
    monkeypatch.setattr(loss, "BLOCK", block)
    base = tiny_base(family)
    rows = train_rows((7, 4, 12))
    flat = flatten([row.ids for row in rows])
    targets = torch.tensor([3, 4, 5, 9, 10, 14, 22])
    weight = base.hooks.linears[2].module.weight.requires_grad_()
    table = torch.cat([own_logits(base.model, row.ids) for row in rows])
    want = functional.cross_entropy(table[targets - 1], flat.ids_T[targets], reduction="sum")
    (want_grad,) = torch.autograd.grad(3 * want, weight)
    got = summed_loss(base, flat, targets - 1, flat.ids_T[targets])
    assert got.dtype == torch.float32 and got.shape == ()
    (got_grad,) = torch.autograd.grad(3 * got, weight)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    scale = float(want_grad.abs().max())
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-4, atol=1e-5 * scale)
    with torch.no_grad():
        quiet = summed_loss(base, flat, targets - 1, flat.ids_T[targets])
    torch.testing.assert_close(quiet, want.detach(), rtol=1e-5, atol=1e-5)


def test_the_loss_of_no_target_is_zero():
    base = tiny_base()
    flat = flatten(documents((4,)))
    none = torch.zeros(0, dtype=torch.long)
    assert float(summed_loss(base, flat, none, none)) == 0


def test_a_documents_first_token_is_never_a_target():
    """Else it would be predicted from the document before it."""
    job = make_job("/nowhere")
    (a, b) = train_rows((5, 6), prompt=0)
    assert a.supervised[0] and b.supervised[0] and (a.targets, b.targets) == (4, 5)
    batch = batch_of(job.base, [a, b])
    total, count = summed_loss(job.base, *batch), len(batch[2])
    want = 0.0
    for row in (a, b):
        table = own_logits(job.base.model, row.ids).log_softmax(-1)
        want -= sum(float(table[i - 1, t]) for i, t in enumerate(row.ids) if i)
    assert count == 9 and float(total) == pytest.approx(want, rel=1e-5)


def gradients(job, rows):
    """The gradient of one step, without the step: the rate is zero."""
    job.adapter.attach()
    with torch.no_grad():
        for b in job.adapter.B:
            b.copy_(torch.linspace(-0.1, 0.1, b.numel()).view(b.shape))
    optimiser = torch.optim.AdamW(job.adapter.parameters(), lr=0.0)
    parameters = list(job.adapter.parameters())
    mean, norm, tokens = loop.take_step(job, optimiser, parameters, 0, rows)
    return [p.grad.clone() for p in parameters], mean, norm, tokens


@pytest.mark.parametrize("family", CONFIGS)
def test_micro_batches_change_memory_not_gradients(family):
    """transformers #34191: a mean of means would weigh short answers more."""
    rows, free = train_rows(LENGTHS), {"clip": 1e9, "rate": 0.0}
    whole = gradients(make_job("/x", base=tiny_base(family), micro=10_000, **free), rows)
    parts = gradients(make_job("/x", base=tiny_base(family), micro=1, **free), rows)
    for a, b in zip(whole[0], parts[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert whole[1:] == pytest.approx(parts[1:], rel=1e-5)
    assert whole[3] == sum(LENGTHS)
    # The oracle: the mean over all supervised tokens of plain cross-entropies.
    job = make_job("/x", base=tiny_base(family), **free)
    gradients(job, rows)
    total, count = 0.0, 0
    for row in rows:
        table = own_logits(job.base.model, row.ids)
        total += functional.cross_entropy(table[1:-1], torch.tensor(row.ids[2:]), reduction="sum")
        count += len(row.ids) - 2
    want = torch.autograd.grad(total / count, list(job.adapter.parameters()))
    for a, b in zip(whole[0], want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    norm = math.sqrt(sum(float(g.square().sum()) for g in want))
    assert whole[1] == pytest.approx(float(total.detach()) / count, rel=1e-5)
    assert whole[2] == pytest.approx(norm, rel=1e-4)


def test_the_gradient_is_clipped_and_its_norm_is_told():
    free, _, norm, _ = gradients(make_job("/x", clip=1e9), train_rows(LENGTHS))
    clipped, _, told, _ = gradients(make_job("/x", clip=norm / 4), train_rows(LENGTHS))
    assert told == pytest.approx(norm)
    for a, b in zip(free, clipped, strict=True):
        torch.testing.assert_close(a / 4, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("limit", [1, 20, 25, 10_000])
def test_micro_batches_hold_every_row_in_order(limit):
    rows = train_rows(LENGTHS)
    groups = list(order.micro_batches(rows, limit))
    assert [row for group in groups for row in group] == rows
    assert all(len(g) == 1 or sum(len(r.ids) for r in g) <= limit for g in groups)
    assert len(groups) == {1: 8, 20: 6, 25: 5, 10_000: 1}[limit]


def test_epochs_visit_every_row_once_in_changing_order():
    job = make_job("/nowhere")
    seen = [row.id for step in range(16) for row in job.order.step(step)]
    epochs = [seen[n : n + 8] for n in range(0, 48, 8)]
    assert all(sorted(e) == sorted(r.id for r in job.rows) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 6
    other = make_job("/nowhere", seed=6)
    assert [row.id for row in other.order.step(0)] != seen[:3]


def theirs(scheduler, steps, **more):
    """transformers' factors for steps 0, 1, …"""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    (factor,) = scheduler(optimiser, **more).lr_lambdas
    return [factor(step) for step in range(steps)]


@pytest.mark.parametrize("steps", [1, 7, 40, 200])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "wsd"])
def test_schedules_are_those_of_transformers_after_the_warm_up(kind, warmup, steps):
    """In the warm-up ours is (t + 1) / (w + 1), theirs t / w: theirs wastes the first step."""
    rises = round(warmup * steps)
    counts = {"num_warmup_steps": rises}
    if kind == "wsd":
        counts |= {"num_decay_steps": max(1, round(0.2 * steps)), "decay_type": "1-sqrt"}
    if kind != "constant":
        counts |= {"num_training_steps": steps}
    function = {
        "linear": transformers.get_linear_schedule_with_warmup,
        "cosine": transformers.get_cosine_schedule_with_warmup,
        "constant": transformers.get_constant_schedule_with_warmup,
        "wsd": transformers.get_wsd_schedule,
    }[kind]
    want = theirs(function, steps, **counts)
    got = [schedule.factor(kind, t, steps, warmup, 0.2) for t in range(steps)]
    assert got[rises:] == pytest.approx(want[rises:], abs=1e-12)
    assert got[:rises] == pytest.approx([(t + 1) / (rises + 1) for t in range(rises)])
    assert all(0 < x <= 1 for x in got) and got == sorted(got[: rises + 1]) + got[rises + 1 :]


def test_five_steps_equal_a_plain_loop_over_peft(tmp_path):
    """Same start, same batches: losses, gradient norms and factors of PEFT and torch.optim."""
    job = make_job(tmp_path, steps=5, weight_decay=0.1, warmup_share=0.4, clip=0.8)
    job.adapter.save(tmp_path / "start")
    model = peft.PeftModel.from_pretrained(
        tiny_model("llama"), tmp_path / "start", is_trainable=True
    ).eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=job.learning_rate, betas=(0.9, 0.999), weight_decay=0.1
    )
    factors = [1 / 3, 2 / 3, 1.0, 2 / 3, 1 / 3]  # two steps up, then linear down
    losses, norms = [], []
    for step, factor in enumerate(factors):
        total, count = 0.0, 0
        for row in job.order.step(step):
            table = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
            labels = torch.tensor(row.ids[1:])
            labels[: row.supervised.index(True) - 1] = -100
            total += functional.cross_entropy(table[:-1], labels, reduction="sum")
            count += int((labels != -100).sum())
        optimiser.zero_grad()
        (total / count).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 0.8)))
        optimiser.param_groups[0]["lr"] = job.learning_rate * factor
        optimiser.step()
        losses.append(float(total.detach()) / count)
    history = loop.train(job).history[1:]
    assert [h["loss"] for h in history] == pytest.approx(losses, rel=1e-5)
    assert [h["gradient_norm"] for h in history] == pytest.approx(norms, rel=1e-4)
    assert max(norms) > 0.8 and losses[-1] < losses[0]
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for layer, a, b in zip(job.adapter.layers, job.adapter.A, job.adapter.B, strict=True):
        for side, ours in (("A", a), ("B", b)):
            want = trained[f"base_model.model.{layer.path}.lora_{side}.default.weight"]
            torch.testing.assert_close(ours, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", CONFIGS)
def test_what_rows_begin_with_alike_is_read_once_and_learned_by_all(family):
    """The oracle reads every row alone; the same row twice, and one that another continues."""
    one, two, three = (row.ids for row in train_rows((9, 14, 6)))
    rows = [
        TrainRow(str(i), ids, [j >= first for j in range(len(ids))])
        for i, (ids, first) in enumerate(
            [(one, 2), (one[:5] + two, 7), (one[:5] + three, 3), (one, 4), (one[:5] + two[:4], 1)]
        )
    ]
    base = tiny_base(family)
    adapter = METHODS.get("lora").build(base, LoraSettings(rank=2), 0)
    with torch.no_grad():
        for b in adapter.B:
            b.copy_(torch.linspace(-0.1, 0.1, b.numel()).view(b.shape))
    adapter.attach()
    parameters = list(adapter.parameters())
    batch = batch_of(base, rows)
    loss = summed_loss(base, *batch)
    got = torch.autograd.grad(loss, parameters)
    parts = [summed_loss(base, *batch_of(base, [row])) for row in rows]
    want = torch.autograd.grad(sum(parts), parameters)
    assert len(batch[2]) == sum(row.targets for row in rows)
    total = sum(part.detach() for part in parts)
    assert float(loss.detach()) == pytest.approx(float(total), rel=1e-5)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-7)
    flat, *_ = batch_of(base, rows)
    read = len(one) + len(two) + len(three)  # beginnings and the repeated row once
    assert flat.tokens == (read if family != "mamba" else sum(len(row.ids) for row in rows))


def test_where_inputs_are_dropped_no_row_stands_for_another():
    base = tiny_base()
    METHODS.get("lora").build(base, LoraSettings(rank=2, dropout=0.5), 0).attach()
    rows = train_rows((7,)) * 2
    assert batch_of(base, rows)[0].tokens == 14
    with torch.no_grad():
        assert batch_of(base, rows)[0].tokens == 7  # no noise without a gradient
