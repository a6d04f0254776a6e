"""The loss of a student with a teacher: against torch's kl_div and autograd."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from domainwright.models import native
from domainwright.models.lesson import Lesson
from domainwright.train import loss as loss_head
from domainwright.train.distillation import blended
from domainwright.train.loop import train
from domainwright.train.loss import batch_of, summed_loss, summed_losses
from tests.methods.test_method_contract import build, tuned
from tests.tiny import own_logits, tiny_base, train_rows
from tests.train.runs import make_job

V = 320


def lesson_of(logits_NV, top, weight=0.4, temperature=2.0):
    logs = (logits_NV / temperature).log_softmax(1)
    kept = logs.topk(top or logs.shape[1], dim=1)
    rest = logs.scatter(1, kept.indices, -torch.inf).logsumexp(1)
    return Lesson(kept.indices.int(), kept.values, rest, weight, temperature)


def drawn(seed, rows=7):
    return 3 * torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("weight", "temperature"), [(0.4, 2.0), (1.0, 0.7), (0.9, 5.0)])
def test_the_whole_vocabulary_is_torchs_divergence(weight, temperature):
    mine, teacher = drawn(0).requires_grad_(), drawn(1)
    labels = torch.arange(7)
    divergence = functional.kl_div(
        (mine / temperature).log_softmax(1),
        (teacher / temperature).log_softmax(1),
        log_target=True,
        reduction="none",
    ).sum(1)
    plain = functional.cross_entropy(mine, labels, reduction="none")
    want = (1 - weight) * plain + weight * temperature**2 * divergence
    (gradient,) = torch.autograd.grad(want.sum(), mine)
    logits = mine.detach().clone()
    got = blended(logits, labels, lesson_of(teacher, None, weight, temperature), gradient=True)
    torch.testing.assert_close(got, want.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("top", [1, 5, 64, V - 1])
def test_tokens_beyond_the_kept_ones_count_as_one(top):
    """The oracle sums both sides' tails with a mask; the gradient is autograd's of that."""
    mine, teacher, labels = drawn(0).requires_grad_(), drawn(1), torch.arange(7)
    lesson = lesson_of(teacher, top)
    p, q = (mine / 2).softmax(1), (teacher / 2).softmax(1)
    kept = torch.zeros(7, V, dtype=torch.bool).scatter(1, lesson.ids_NK.long(), True)
    coarse_p, coarse_q = (
        torch.cat([x[kept].view(7, top), x.masked_fill(kept, 0).sum(1, keepdim=True)], 1)
        for x in (p, q)
    )
    apart = functional.kl_div(coarse_p.log(), coarse_q, reduction="none").sum(1)
    want = 0.6 * functional.cross_entropy(mine, labels, reduction="none") + 0.4 * 4 * apart
    (gradient,) = torch.autograd.grad(want.sum(), mine)
    logits = mine.detach().clone()
    got = blended(logits, labels, lesson, gradient=True)
    torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, gradient, rtol=1e-3, atol=1e-6)
    # Never above the divergence over the whole vocabulary, and closer with more tokens.
    whole = blended(mine.detach().clone(), labels, lesson_of(teacher, None))
    assert (got <= whole + 1e-5).all()


def test_a_tail_that_the_student_all_but_rules_out_is_a_number():
    """p_r of e^-200: as a plain quotient q_r / p_r is infinite."""
    mine, teacher = torch.zeros(1, V), torch.zeros(1, V)
    mine[0, 0], teacher[0, 0] = 200.0, 8.0
    logits = mine.clone()
    lesson = lesson_of(teacher, 1, weight=1.0, temperature=1.0)
    value = blended(logits, torch.zeros(1, dtype=torch.long), lesson, gradient=True)
    tail = float(lesson.rest_N.exp())
    assert 0.9 * tail < float(value) / (200 - float(torch.tensor(V - 1.0).log())) < 1.1 * tail
    assert torch.isfinite(logits).all()
    # What is taken from the one token is shared out equally among the others.
    torch.testing.assert_close(logits[0, 1:], torch.full((V - 1,), -tail / (V - 1)))
    assert float(logits.sum()) == pytest.approx(0, abs=1e-6)


@pytest.mark.skipif(native.library() is None, reason=f"no native kernels: {native.reason()}")
@pytest.mark.parametrize(("weight", "temperature"), [(0.4, 2.0), (1.0, 1.0), (0.9, 0.5)])
@pytest.mark.parametrize("top", [1, 5, 64, None])
@pytest.mark.parametrize("width", [V, 1003])
def test_the_native_loss_is_the_plain_one(weight, temperature, top, width):
    """Of the same numbers in bfloat16, with tails that one side all but rules out."""
    source = torch.Generator().manual_seed(0)
    mine, teacher = (3 * torch.randn(9, width, generator=source) for _ in range(2))
    mine[1, 0], teacher[1, 0] = 200.0, 8.0  # the student has no tail
    mine[2, 1], teacher[2, 0] = 40.0, 8.0  # and is sure of another token
    mine[3, 2], teacher[3, 2] = 3.0, 90.0  # the teacher has none
    mine = mine.bfloat16()
    labels = torch.tensor([0, 5, 1, 2, 7, width - 1, 3, 0, 8])
    lesson = lesson_of(teacher, top, weight, temperature)
    got_pull = mine.clone()
    got = blended(got_pull, labels, lesson, gradient=True)
    alone = blended(mine.clone(), labels, lesson)
    want_pull = mine.float()  # float32 takes the plain way, and rounds nothing
    want = blended(want_pull, labels, lesson, gradient=True)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(alone, want, rtol=2e-5, atol=2e-5)
    # What is written is rounded to bfloat16.
    torch.testing.assert_close(got_pull.float(), want_pull, rtol=2**-8, atol=1e-6)


def taught_rows(teacher, rows, top, weight=0.4):
    """The teacher's own eager logits at the supervised tokens."""
    found = []
    for row in rows:
        marked = [i - 1 for i, on in enumerate(row.supervised) if on and i]
        table = own_logits(teacher.model, row.ids)[marked].detach()
        found.append(replace(row, lesson=lesson_of(table, top, weight)))
    return found


def wanted_loss(base, rows, teacher, weight=0.4):
    total = torch.zeros(())
    for row in rows:
        marked = [i for i, on in enumerate(row.supervised) if on and i]
        mine = own_logits(base.model, row.ids)[[i - 1 for i in marked]]
        other = own_logits(teacher.model, row.ids)[[i - 1 for i in marked]].detach()
        labels = torch.tensor([row.ids[i] for i in marked])
        apart = functional.kl_div(
            (mine / 2).log_softmax(1), (other / 2).softmax(1), reduction="sum"
        )
        plain = functional.cross_entropy(mine, labels, reduction="sum")
        total = total + (1 - weight) * plain + weight * 4 * apart
    return total


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mamba"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_loss_head_with_a_lesson_equals_autograd(family, method, monkeypatch):
    """A plain head, a capped one, and one that is trained; blocks smaller than the batch."""
    monkeypatch.setattr(loss_head, "BLOCK", 4)
    base, teacher = tiny_base(family), tiny_base(family, seed=3)
    adapter = tuned(base, method)
    rows = train_rows((7, 12, 5))
    # The second begins as the first one does: read once, learned by both.
    rows[1] = replace(rows[1], ids=rows[0].ids[:4] + rows[1].ids[4:])
    parameters = list(adapter.parameters())
    loss = summed_loss(base, *batch_of(base, taught_rows(teacher, rows, None)))
    got = torch.autograd.grad(loss, parameters)
    want_loss = wanted_loss(base, rows, teacher)
    want = torch.autograd.grad(want_loss, parameters)
    torch.testing.assert_close(loss, want_loss, rtol=1e-4, atol=1e-4)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4 * float(b.abs().max()) + 1e-6)


def test_candidates_in_one_batch_have_the_lesson_each():
    base, teacher = tiny_base(), tiny_base(seed=3)
    owners = [build(base, "lora", seed=n) for n in (1, 2)]
    with torch.no_grad():
        for owner in owners:
            for b in owner.B:
                b.normal_(0, 0.1)
    batch = batch_of(base, taught_rows(teacher, train_rows((7, 12)), 8))
    alone = []
    for owner in owners:
        with owner.attached():
            alone.append(float(summed_loss(base, *batch).detach()))
    for owner in owners:
        owner.attach()
    got = summed_losses(base, owners, *batch)
    assert got.tolist() == pytest.approx(alone, rel=1e-4) and abs(alone[0] - alone[1]) > 1e-3


def test_a_student_comes_nearer_to_its_teacher(tmp_path):
    """Through the whole loop; the losses that are watched stay plain."""
    base, teacher = tiny_base(), tiny_base()
    tuned(teacher, "lora", rank=2)
    rows = train_rows((9, 14, 5, 22))
    job = make_job(
        tmp_path,
        base=base,
        adapter=build(base, "lora", rank=4),
        rows=taught_rows(teacher, rows, 16, weight=1.0),
        development=rows,
        steps=12,
    )
    trained = train(job)

    def apart():
        both = [torch.cat([own_logits(b.model, r.ids) for r in rows]) for b in (base, teacher)]
        mine, other = (x.detach().log_softmax(1) for x in both)
        return float(functional.kl_div(mine, other, log_target=True, reduction="batchmean"))

    before = apart()
    with job.adapter.attached():
        assert apart() < 0.5 * before
    lines = [x for x in trained.history if "development_loss" in x]
    assert lines[0]["development_loss"] == pytest.approx(trained.base_loss)
