"""Several candidates over one base: each one's run is the run it would have had alone."""

import json
import math
from dataclasses import replace

import pytest
import torch

from domainwright.core.errors import CapabilityError, RunFailed
from domainwright.train import loop, passes, together
from domainwright.train.loop import Interrupted, train
from domainwright.train.loss import batch_of, summed_loss, summed_losses
from domainwright.train.order import Order, micro_batches
from domainwright.train.step import Watched
from domainwright.train.together import fused_groups, train_together
from tests.tiny import tiny_base
from tests.train.candidates import alone, assert_alike, make_jobs, same, state_of
from tests.train.runs import LENGTHS, make_job
from tests.train.stopped import stop_at


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba"])
def test_each_candidate_is_as_if_it_were_alone(tmp_path, family, monkeypatch):
    """llama: the fused trunk; gpt2: hooks on rows; mamba: documents one at a time."""
    others, want = alone(tmp_path / "alone", family)
    fused = []
    plain = together.Together.gradients
    monkeypatch.setattr(
        together.Together, "gradients", lambda s, m, p: fused.append(len(m)) or plain(s, m, p)
    )
    for way in ("in turn", "fused"):
        base = tiny_base(family)
        jobs = make_jobs(tmp_path / way, base)
        got = train_together(jobs, way=way)
        assert_alike(got, jobs, want, others, exact=way == "in turn")
        assert not base.hooks._on
        for job, told in zip(jobs, got, strict=True):
            lines = (job.folder / "metrics.jsonl").read_text().splitlines()
            assert tuple(map(json.loads, lines)) == told.history
        # The second ends after nine steps, and the others go on as two.
        assert fused == ([] if way == "in turn" else [3] * 9 + [2] * 3)


def test_a_base_with_checkpointing_and_hooks_on_rows(tmp_path):
    """Recomputed blocks call their hooks in the backward pass: rows must still have their owner."""
    others, want = alone(tmp_path / "alone", "gpt2", recompute=True, steps=4)
    for way in ("fused", "in turn"):
        jobs = make_jobs(tmp_path / way, tiny_base("gpt2"), recompute=True, steps=4)
        got = train_together(jobs, way=way)
        assert_alike(got, jobs, want, others, exact=way == "in turn")


@pytest.mark.parametrize("way", ["in turn", "fused"])
@pytest.mark.parametrize("rate", [1e4, 1e25])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_diverging_candidate_touches_no_other(tmp_path, way, rate, family):
    others, want = alone(tmp_path / "alone", family, which=(0, 2))
    base = tiny_base(family)
    jobs = make_jobs(tmp_path / "jobs", base)
    jobs[1] = replace(jobs[1], learning_rate=rate, steps=30)
    got = train_together(jobs, way=way)
    assert isinstance(got[1], RunFailed) and "diverged" in got[1].cause
    assert_alike(got[::2], jobs[::2], want, others, exact=way == "in turn")
    assert not base.hooks._on and jobs[1].adapter.A[0].grad is None


def test_what_is_not_finite_in_one_copy_is_never_applied_to_another(tmp_path, monkeypatch):
    """Poison that spread to everyone: each then steps alone, and only its source fails."""
    others, want = alone(tmp_path / "alone", which=(0, 2))
    jobs = make_jobs(tmp_path / "jobs", tiny_base())
    plain, calls = together.summed_losses, []

    def poisoned(base, owners, *batch):
        calls.append(len(owners))
        return plain(base, owners, *batch) * (math.nan if len(owners) == 3 else 1.0)

    monkeypatch.setattr(together, "summed_losses", poisoned)
    jobs[1] = replace(jobs[1], learning_rate=1e25)
    got = train_together(jobs, way="fused")
    assert isinstance(got[1], RunFailed)
    assert 3 in calls and 2 in calls
    assert_alike(got[::2], jobs[::2], want, others, exact=False)


def test_other_failures_are_the_candidates_own(tmp_path):
    base = tiny_base()
    jobs = make_jobs(tmp_path, base)
    jobs[0] = replace(jobs[0], settings=replace(jobs[0].settings, max_forgetting=-1.0))
    zero = make_job(tmp_path / "zero", base=base, method={"alpha": 0.0}, micro=120)
    got = train_together([*jobs, zero], way="fused")
    assert "forgets more than the limit" in got[0].cause
    assert got[1].steps == 9 and got[2].steps == 12
    assert "exactly zero at step 1" in got[3].cause


def test_memory_for_one_optimiser_is_that_candidates_failure(tmp_path, monkeypatch):
    plain = together.update

    def update(job, optimiser, step):
        if job.folder.name == "1":
            raise CapabilityError("Memory ran out.", "free memory.")
        plain(job, optimiser, step)

    monkeypatch.setattr(together, "update", update)
    got = train_together(make_jobs(tmp_path, tiny_base()), way="fused")
    assert isinstance(got[1], RunFailed) and got[1].fix == "free memory."
    assert got[0].steps == got[2].steps == 12


@pytest.mark.parametrize("way", ["in turn", "fused"])
def test_patience_ends_one_candidate(tmp_path, monkeypatch, way):
    jobs = make_jobs(tmp_path, tiny_base(), steps=12, checks=4, patience=2)
    seen = []

    def losses(self, job, step, *_):
        number = job.folder.name
        seen.append((number, step))
        rising = number == "1" and step > 3
        return {"development_loss": 5.0 + step if rising else 5.0 - step / 10, "general_loss": 1.0}

    monkeypatch.setattr(Watched, "losses", losses)
    got = train_together(jobs, way=way)
    assert [x.steps for x in got] == [12, 9, 12]
    assert [x.best_step for x in got] == [12, 3, 12]
    # What the untouched base loses is read once for all.
    assert sum(step == 0 for _, step in seen) == 1


@pytest.mark.parametrize("way", ["in turn", "fused"])
@pytest.mark.parametrize("calls", [(2, 3), (4, 9), (20,)])
def test_stopping_and_going_on(tmp_path, way, calls):
    """In turn, a stop falls between candidates too: those behind then catch up."""
    base = tiny_base()
    straight = make_jobs(tmp_path / "straight", base)
    want = train_together(straight, way=way)
    steps = {}
    for number, limit in enumerate(calls):
        heard = []
        with pytest.raises(Interrupted):
            train_together(
                make_jobs(tmp_path / "stopped", base),
                way=way,
                resume=number > 0,
                listen=lambda s, h=heard: h.append((s.stage, s.done)),
                stop=lambda h=heard, n=limit: len(h) >= n,
            )
        for stage, done in heard:
            assert done == steps.get(stage, 0) + 1  # nothing is trained twice
            steps[stage] = done
        assert not base.hooks._on
        for name in "012":
            newest = max((tmp_path / "stopped" / name / "checkpoints").glob("step-*"))
            assert int(newest.name[-7:]) == steps.get(f"train lora {name}", 0)
    jobs = make_jobs(tmp_path / "stopped", base)
    got = train_together(jobs, way=way, resume=True)
    assert_alike(got, jobs, want, straight, exact=True)


def test_candidates_at_different_steps_meet(tmp_path, monkeypatch):
    """One comes from a run alone, at step 5; it waits until the others are there."""
    others, want = alone(tmp_path / "alone")
    base = tiny_base()
    jobs = make_jobs(tmp_path / "jobs", base)
    heard = []
    with pytest.raises(Interrupted):
        train(jobs[0], **stop_at(5))
    plain = together.Together.gradients
    monkeypatch.setattr(
        together.Together, "gradients", lambda s, m, p: heard.append("fused") or plain(s, m, p)
    )
    jobs = make_jobs(tmp_path / "jobs", base)
    got = train_together(
        jobs, way="fused", resume=True, listen=lambda s: heard.append((s.stage[-1], s.done))
    )
    assert heard[:10] == [(name, n) for n in range(1, 6) for name in "12"]
    assert heard[10:14] == ["fused", ("0", 6), ("1", 6), ("2", 6)]
    assert_alike(got, jobs, want, others, exact=False)


@pytest.mark.parametrize("way", ["in turn", "fused"])
def test_rows_are_packed_once_for_all(tmp_path, monkeypatch, way):
    plain, packed = passes.batch_of, []
    monkeypatch.setattr(
        passes, "batch_of", lambda base, rows: packed.append(len(rows)) or plain(base, rows)
    )
    jobs = make_jobs(tmp_path, tiny_base(), steps=4, checks=4, micro=75)
    train_together(jobs, way=way)
    limit = 75 if way == "in turn" else 25
    groups = [
        len(group)
        for step in range(4)
        for group in micro_batches(Order(jobs[0].rows, 3, 5).step(step), limit)
    ]
    assert packed == [4, 2, *groups]  # development and general rows once for all checks


def test_a_fused_batch_holds_no_more_tokens_than_a_pass(tmp_path, monkeypatch):
    base = tiny_base()
    plain, sizes = base.hidden_of_each, []

    def hidden(owners, flat, rows):
        sizes.append((len(owners), flat.tokens))
        return plain(owners, flat, rows)

    monkeypatch.setattr(base, "hidden_of_each", hidden)
    others, want = alone(tmp_path / "alone", steps=4, micro=50)
    jobs = make_jobs(tmp_path / "jobs", base, steps=4, micro=50)
    got = train_together(jobs, way="fused")
    # The longest document has 22 tokens: two copies fit, three do not; the third goes alone.
    assert {n for n, _ in sizes} == {2} and max(n * t for n, t in sizes) <= 50
    assert_alike(got, jobs, want, others, exact=False)


def test_noise_is_not_packed_as_the_others_are(tmp_path):
    """Two equal rows are read once, but not where inputs are dropped."""
    rows = 2 * list(make_job(tmp_path).rows[:2])
    noisy = {"method": {"rank": 2, "dropout": 0.3}, "micro": 120, "steps": 3, "rows": rows}
    straight = make_job(tmp_path / "alone", **noisy)
    train(straight)
    base = tiny_base()
    quiet = make_job(tmp_path / "quiet", base=base, micro=120, steps=3, rows=rows)
    jobs = [quiet, make_job(tmp_path / "noisy", base=base, **noisy)]
    train_together(jobs, way="in turn")
    assert same(state_of(jobs[1]), state_of(straight))


def test_each_owners_loss_has_its_own_gradient(tmp_path):
    base = tiny_base()
    jobs = make_jobs(tmp_path, base)
    owners = [job.adapter for job in jobs]
    factors = (1.0, -3.0, 0.25)
    batch = batch_of(base, jobs[0].rows[:4])
    want = []
    for owner, factor in zip(owners, factors, strict=True):
        with owner.attached():
            loss = summed_loss(base, *batch)
            want.append((loss, torch.autograd.grad(factor * loss, list(owner.B))))
    for owner in owners:
        owner.attach()
    losses = summed_losses(base, owners, *batch)
    (losses * torch.tensor(factors)).sum().backward()
    for owner, mine, (loss, gradients) in zip(owners, losses, want, strict=True):
        torch.testing.assert_close(mine, loss, rtol=1e-5, atol=1e-5)
        for b, gradient in zip(owner.B, gradients, strict=True):
            scale = float(gradient.abs().max())
            torch.testing.assert_close(b.grad, gradient, rtol=1e-4, atol=1e-5 * scale)


def test_groups_are_even_and_fit(tmp_path):
    longest = max(LENGTHS)
    runs = [loop.Run(make_job(tmp_path, micro=longest * 5)) for _ in range(6)]
    groups = fused_groups(runs)
    assert [len(move) for move in groups.moves] == [3, 3]
    assert groups.limit == longest * 5 // 3
    assert sorted(map(id, runs)) == sorted(id(run) for move in groups.moves for run in move)
    tight = [loop.Run(make_job(tmp_path, micro=longest * 2 - 1)) for _ in range(3)]
    assert [len(move) for move in fused_groups(tight).moves] == [1, 1, 1]


def test_who_drops_inputs_goes_in_turn(tmp_path, monkeypatch):
    sizes = []
    plain = together.Together.gradients
    monkeypatch.setattr(
        together.Together, "gradients", lambda s, m, p: sizes.append(len(m)) or plain(s, m, p)
    )
    noisy = {"method": {"rank": 2, "dropout": 0.3}, "micro": 120, "steps": 5}
    straight = make_job(tmp_path / "alone", **noisy)
    train(straight)
    base = tiny_base()
    jobs = [make_job(tmp_path / "noisy", base=base, **noisy), *make_jobs(tmp_path, base, steps=5)]
    train_together(jobs, way="fused")
    assert sizes == [3] * 5 and same(state_of(jobs[0]), state_of(straight))


@pytest.mark.parametrize("forced", [True, False])
def test_who_turns_out_not_to_share_ends_the_sharing(tmp_path, monkeypatch, forced):
    """A method may find only in the batch itself that its rows cannot stand beside others'."""

    def refuse(*_):
        raise CapabilityError("No flat batch.", "give it a batch of its own.")

    monkeypatch.setattr(together, "summed_losses", refuse)
    others, want = alone(tmp_path / "alone", steps=3)
    jobs = make_jobs(tmp_path / "jobs", tiny_base(), steps=3)
    got = train_together(jobs, way="fused" if forced else None)
    assert got[0].history[1]["together"]["way"] == "in turn"
    assert got[0].history[1]["together"]["cause"] == "No flat batch."
    assert all("together" not in x for x in got[0].history[2:])
    assert_alike(got, jobs, want, others, exact=True)


def test_who_replaces_weights_goes_in_turn(tmp_path, monkeypatch):
    jobs = make_jobs(tmp_path / "jobs", tiny_base(), steps=3)
    replaced = [("name", None)]
    monkeypatch.setattr(jobs[0].adapter, "replacements", lambda: iter(replaced), raising=False)
    how = together.Together(loop.Stage(jobs[0]), "fused")
    runs = [loop.Run(job) for job in jobs]
    monkeypatch.setattr(how.stage, "put", lambda *_: None)
    moves = how.moves(runs, passes.Packing(jobs[0].base, []), all_here=True)
    assert moves == [[runs[1], runs[2]], [runs[0]]]


def test_a_base_without_a_plain_head_goes_in_turn(tmp_path):
    others, want = alone(tmp_path / "alone", "gemma2", steps=3, which=(0, 1))
    jobs = make_jobs(tmp_path / "jobs", tiny_base("gemma2"), steps=3, which=(0, 1))
    got = train_together(jobs, way="fused")
    assert_alike(got, jobs, want, others, exact=True)
