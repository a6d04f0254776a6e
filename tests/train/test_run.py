"""A whole run: what it keeps, when it fails, and that stopping and going on changes nothing."""

import json
import math
import threading
from dataclasses import replace
from itertools import chain, repeat

import pytest
import torch

from domainwright.core.errors import ConfigError, RunFailed
from domainwright.core.lock import lock
from domainwright.models.flat import flatten
from domainwright.models.forms import TrainRow
from domainwright.train import checkpoint, run, step
from domainwright.train.loop import Interrupted, train
from domainwright.train.run import check_health
from domainwright.train.step import Watched, mean_loss, take_step
from tests.tiny import documents, own_logits, tiny_base
from tests.train.runs import make_job
from tests.train.stopped import stop_at


def losses(trained):
    """History without the clock."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in trained.history]


def state_of(job):
    return {k: v.clone() for k, v in job.adapter.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_measures_itself(tmp_path):
    job = make_job(tmp_path, steps=6)
    base_loss = mean_loss(job, job.development)
    steps = []
    got = train(job, listen=steps.append)
    assert got.base_loss == pytest.approx(base_loss) and got.best_loss < base_loss
    assert got.steps == 6 and got.tokens == sum(
        len(r.ids) for n in range(6) for r in job.order.step(n)
    )
    assert got.tokens_per_s == pytest.approx(got.tokens / got.seconds) and got.peak_rss_mib > 50
    assert [(s.stage, s.done, s.total) for s in steps] == [
        ("train lora", n, 6) for n in range(1, 7)
    ]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(got.history) and [line["step"] for line in lines] == list(range(7))
    # Losses are watched at the start and at three checks.
    assert [n for n, line in enumerate(lines) if "development_loss" in line] == [0, 2, 4, 6]
    # The adapter holds its best state, and the base is bare again.
    assert mean_loss(job, job.development) == pytest.approx(base_loss)
    with job.adapter.attached():
        assert mean_loss(job, job.development) == pytest.approx(got.best_loss)


def test_the_best_state_is_kept_not_the_last(tmp_path, monkeypatch):
    fake = iter([5.0, 4.0, 2.0, 3.0, 2.5])
    monkeypatch.setattr(
        Watched,
        "losses",
        lambda *_: {"development_loss": next(fake), "general_loss": 1.0},
    )
    job = make_job(tmp_path, steps=8, checks=4)
    states = {}
    got = train(job, listen=lambda s: states.setdefault(s.done, state_of(job)))
    assert (got.best_step, got.best_loss, got.base_loss) == (4, 2.0, 5.0)
    assert_same(state_of(job), states[4])
    assert not torch.equal(states[4]["A.0"], states[8]["A.0"])


def test_patience_ends_a_run(tmp_path, monkeypatch):
    fake = iter([5.0, 4.0, 4.5, 4.6, 1.0, 1.0])
    monkeypatch.setattr(
        Watched,
        "losses",
        lambda *_: {"development_loss": next(fake), "general_loss": 1.0},
    )
    got = train(make_job(tmp_path, steps=10, checks=5, patience=2))
    assert (got.steps, got.best_step) == (6, 2)


def test_a_state_that_forgets_too_much_is_not_kept(tmp_path, monkeypatch):
    # Drawn back, the state in the middle would still forget too much.
    fake = chain([(5.0, 1.0), (4.0, 1.05), (2.0, 1.2), (3.0, 1.1)], repeat((2.5, 1.15)))

    def watched(self, job, *rest):
        development, general = next(fake)
        return {"development_loss": development, "general_loss": general}

    monkeypatch.setattr(Watched, "losses", watched)
    got = train(make_job(tmp_path, steps=3, max_forgetting=0.1 + 1e-9))
    assert (got.best_step, got.best_loss) == (3, 3.0)


def test_a_run_that_only_forgets_fails(tmp_path):
    job = make_job(tmp_path, max_forgetting=-1.0)
    with pytest.raises(
        RunFailed, match=r"forgets more than the limit: .* limit is -1\.0"
    ) as caught:
        train(job)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    risen = min(x["general_loss"] for x in lines[1:] if "general_loss" in x)
    assert f"at least {risen - lines[0]['general_loss']:.3f} nats" in caught.value.cause


def test_a_run_that_learns_nothing_fails(tmp_path):
    """The base's own greedy words are what it finds most likely; training on others costs that."""
    base = tiny_base()
    (ids,) = documents((3,))
    for _ in range(15):
        ids.append(int(own_logits(base.model, ids)[-1].argmax()))
    greedy = TrainRow("greedy", ids, [i >= 3 for i in range(len(ids))])
    job = make_job(tmp_path, base=base, rate=0.05, steps=4, development=[greedy])
    with pytest.raises(RunFailed, match=r"learned nothing: the best development loss is \d"):
        train(job)


def test_a_failed_run_leaves_the_base_bare(tmp_path):
    """The study goes on with other strategies: none may be measured with the failed adapter on."""
    job = make_job(tmp_path, rate=1e4, steps=30)
    flat = flatten([[5, 6, 7]])
    before = job.base.hidden(flat)
    with pytest.raises(RunFailed):
        train(job)
    assert torch.equal(job.base.hidden(flat), before)


def test_a_rate_that_diverges_fails(tmp_path):
    with pytest.raises(RunFailed, match="diverged") as caught:
        train(make_job(tmp_path, rate=1e4, steps=30))
    assert "lower train.learning_rate" in caught.value.fix


def test_a_loss_that_is_no_number_fails_at_once(tmp_path):
    job = make_job(tmp_path, rate=1e25, steps=20)
    with pytest.raises(RunFailed, match=r"diverged"):
        train(job)


def test_a_last_step_that_diverges_is_no_success(tmp_path):
    """The loss of a step is measured before it: only the development loss shows the damage."""
    job = make_job(tmp_path, rate=1e25, steps=1)
    with pytest.raises(RunFailed, match="development rows is nan at step 1: the run diverged"):
        train(job)


def test_a_rising_loss_is_a_divergence_but_a_high_start_is_not(tmp_path):
    state = checkpoint.State(first_loss=1.0, step=9)
    state.history = [{"loss": x} for x in (9.0, 3.5, 3.2, 3.1, 3.4)]
    check_health(state, 2.9, 1.0)
    with pytest.raises(RunFailed, match=r"rose from 1\.00 to 3\.30 by step 9"):
        check_health(state, 3.3, 1.0)
    state.history = state.history[:3]
    check_health(state, 9.0, 1.0)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf), (math.inf, 1.0)])
def test_health_needs_finite_numbers(loss, norm):
    with pytest.raises(RunFailed, match="diverged"):
        check_health(checkpoint.State(step=3, first_loss=1.0), loss, norm)


def test_a_gradient_that_is_not_finite_is_not_applied(tmp_path, monkeypatch):
    job = make_job(tmp_path)
    job.adapter.attach()
    monkeypatch.setattr(step, "summed_loss", lambda base, *batch: job.adapter.B[0].sum() * math.nan)
    before = state_of(job)
    optimiser = torch.optim.AdamW(job.adapter.parameters())
    take_step(job, optimiser, list(job.adapter.parameters()), 0, job.rows[:2])
    assert_same(before, state_of(job))


def test_a_zero_gradient_fails(tmp_path):
    job = make_job(tmp_path, method={"rank": 2, "alpha": 0.0})
    with pytest.raises(RunFailed, match="exactly zero at step 1"):
        train(job)


def test_rows_learned_by_heart_have_no_gradient():
    """In float32 a margin of 17 nats makes a probability of exactly 1."""
    state = checkpoint.State(step=40, first_loss=1.0)
    check_health(state, 0.0, 0.0)
    with pytest.raises(RunFailed, match="exactly zero at step 40: the run diverged"):
        check_health(state, 60.0, 0.0)


def test_an_adapter_that_changes_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "changes_anything", lambda job: False)
    with pytest.raises(RunFailed, match="changes no logit"):
        train(make_job(tmp_path, steps=3))
    monkeypatch.undo()
    job = make_job(tmp_path)
    job.adapter.attach()
    assert not run.changes_anything(job)
    torch.nn.init.ones_(job.adapter.B[0])
    assert run.changes_anything(job)


def test_without_development_rows_the_last_state_is_kept(tmp_path):
    job = make_job(tmp_path, steps=4, development=[], general=[])
    states = {}
    got = train(job, listen=lambda s: states.setdefault(s.done, state_of(job)))
    assert got.best_step == 4 and math.isnan(got.best_loss)
    assert_same(state_of(job), states[4])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("stops", [(5,), (1, 2, 11), (4, 8)])
def test_stopping_and_going_on_changes_no_bit(tmp_path, stops, dropout):
    method = {"rank": 4, "dropout": dropout}
    straight = make_job(tmp_path / "a", method=method)
    want = train(straight)
    for number, _ in enumerate(stops):
        with pytest.raises(Interrupted):
            train(
                make_job(tmp_path / "b", method=method),
                resume=number > 0,
                **stop_at(*stops),
            )
        torch.rand(7)  # a global stream that moved on must not matter
    job = make_job(tmp_path / "b", method=method)
    got = train(job, resume=True)
    assert_same(state_of(job), state_of(straight))
    assert [{**x, "seconds": 0} for x in losses(got)] == [{**x, "seconds": 0} for x in losses(want)]
    assert (got.best_step, got.best_loss, got.tokens) == (
        want.best_step,
        want.best_loss,
        want.tokens,
    )


def test_a_finished_run_can_be_resumed(tmp_path):
    first = make_job(tmp_path)
    want = train(first)
    again = make_job(tmp_path)
    got = train(again, resume=True, listen=lambda s: pytest.fail("trained again"))
    assert_same(state_of(first), state_of(again))
    assert losses(got) == losses(want) and got.seconds == want.seconds


def test_without_resume_a_run_starts_afresh(tmp_path):
    want = train(make_job(tmp_path))
    steps = []
    got = train(make_job(tmp_path), listen=steps.append)
    assert len(steps) == 12 and losses(got) == losses(want)


def test_two_checkpoints_are_kept(tmp_path):
    train(make_job(tmp_path, checkpoint_every=2))
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-0000010", "step-0000012"]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, file, damage):
    want = train(straight := make_job(tmp_path / "a"))
    with pytest.raises(Interrupted):
        train(make_job(tmp_path / "b", checkpoint_every=1), **stop_at(7))
    newest = tmp_path / "b" / "checkpoints" / "step-0000007" / file
    data = bytearray(newest.read_bytes())
    if damage == "missing":
        newest.unlink()
    else:
        data[len(data) // 2] ^= 4
        newest.write_bytes(bytes(data[: len(data) // 2] if damage == "truncated" else data))
    steps = []
    job = make_job(tmp_path / "b")
    got = train(job, resume=True, listen=lambda s: steps.append(s.done))
    assert steps == list(range(7, 13))
    assert_same(state_of(job), state_of(straight))
    assert losses(got) == losses(want)


def test_with_every_checkpoint_damaged_the_run_starts_afresh(tmp_path):
    with pytest.raises(Interrupted):
        train(make_job(tmp_path, checkpoint_every=1), **stop_at(4))
    for path in (tmp_path / "checkpoints").glob("step-*/state.safetensors"):
        path.write_bytes(b"")
    steps = []
    train(make_job(tmp_path), resume=True, listen=lambda s: steps.append(s.done))
    assert steps == list(range(1, 13))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        train(make_job(tmp_path), **stop_at(3))
    with pytest.raises(ConfigError, match="other data, settings or base"):
        train(replace(make_job(tmp_path), run_hash="other"), resume=True)
    train(replace(make_job(tmp_path), run_hash="other"))


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.newest(tmp_path / "none", "abc") is None
    assert checkpoint.newest(tmp_path, "abc") is None


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path):
    state = checkpoint.State(step=3, best_loss=1.5, history=[{"step": 0, "x": float("nan")}])
    tensors = {"a": torch.randn(3, 4).T, "optimiser.0.step": torch.tensor(2.0)}
    checkpoint.save(tmp_path, state, tensors, "abc")
    got, read = checkpoint.newest(tmp_path, "abc")
    assert repr(got) == repr(state)
    assert_same(tensors, read)


def test_the_optimiser_comes_back_bit_for_bit():
    def fresh():
        parameters = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
        return parameters, torch.optim.AdamW(parameters, lr=0.1, fused=True)

    def step(parameters, optimiser, seed):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        optimiser.step()

    parameters, optimiser = fresh()
    step(parameters, optimiser, 0)
    saved = {k: v.clone() for k, v in checkpoint.optimiser_tensors(optimiser).items()}
    assert len(saved) == 6
    others, other = fresh()
    checkpoint.restore_optimiser(other, saved)
    for a, b in zip(parameters, others, strict=True):
        b.data.copy_(a.data)
    for seed in (1, 2):
        step(parameters, optimiser, seed)
        step(others, other, seed)
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


def test_two_runs_in_one_folder_are_refused(tmp_path):
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock(tmp_path):
            held.set()
            done.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(20)
    with pytest.raises(ConfigError, match=f"working in {tmp_path}"), lock(tmp_path):
        pass
    done.set()
    other.join()


def test_dropout_follows_from_the_step_not_from_the_global_stream(tmp_path):
    runs = []
    for noise in (0, 5):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        job = make_job(tmp_path / str(noise), method={"dropout": 0.4}, steps=3)
        train(job)
        runs.append(state_of(job))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(*runs)


def test_a_bfloat16_base_trains_float32_masters(tmp_path):
    job = make_job(tmp_path, base=tiny_base("llama", torch.bfloat16), steps=6)
    got = train(job)
    assert got.best_loss < got.base_loss
    assert {p.dtype for p in job.adapter.parameters()} == {torch.float32}
    flat = flatten([job.rows[0].ids])
    assert job.base.hidden(flat).dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "mamba"])
def test_other_families_train(tmp_path, family):
    got = train(make_job(tmp_path, base=tiny_base(family), steps=5))
    assert got.best_loss < got.base_loss
