"""The mean of a run's last states: what is in it, and that it is judged like any other state."""

import pytest
import torch

from domainwright.train import step as steps
from domainwright.train.loop import train
from domainwright.train.run import add_to_mean
from tests.train.candidates import without
from tests.train.runs import make_job
from tests.train.stopped import same_after_a_stop
from tests.train.test_run import state_of


def test_a_running_mean_is_the_mean():
    source = torch.Generator().manual_seed(0)
    states = [{"a": torch.randn(3, 4, generator=source), "n": torch.tensor(i)} for i in range(7)]
    mean = {k: v.clone() for k, v in states[0].items()}
    for count, state in enumerate(states, start=1):
        add_to_mean(mean, state, count)
    torch.testing.assert_close(mean["a"], torch.stack([s["a"] for s in states]).mean(0))
    assert mean["n"] == 6


def averaged(folder, **changes):
    return make_job(folder, steps=8, average=0.5, checkpoint_every=3, **changes)


def test_the_states_of_the_tail_are_averaged(tmp_path, monkeypatch):
    """Of eight steps the last four; the mean is read at the end and told with its number."""
    job = averaged(tmp_path)
    seen, read = [], []
    plain = steps.Watched.losses
    monkeypatch.setattr(
        steps.Watched,
        "losses",
        lambda self, own, *rest: read.append(state_of(own)) or plain(self, own, *rest),
    )
    got = train(job, listen=lambda s: seen.append(state_of(job)))
    last = got.history[-1]
    assert (last["step"], last["averaged"]) == (8, 4)
    assert "general_kl" in last or "general_kl" in last["rejected"]
    for name, value in read[-1].items():
        want = torch.stack([state[name] for state in seen[4:]]).mean(0)
        torch.testing.assert_close(value, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("better", [True, False])
def test_it_is_kept_where_it_is_the_best(tmp_path, monkeypatch, better):
    job = averaged(tmp_path)
    plain = steps.Watched.losses
    seen = []

    def losses(self, own, *rest):
        found = plain(self, own, *rest)
        mean = len(seen) == 8
        return found | ({"development_loss": -1.0 if better else 99.0} if mean else {})

    monkeypatch.setattr(steps.Watched, "losses", losses)
    got = train(job, listen=lambda s: seen.append(state_of(job)))
    last = torch.stack([state["A.0"] for state in seen[4:]]).mean(0)
    assert (got.best_loss == -1.0) is better
    told = [x for x in got.history if x["step"] == got.best_step and "development_loss" in x]
    assert told[-1]["development_loss"] == got.best_loss
    assert torch.allclose(state_of(job)["A.0"], last, atol=1e-6) is better


def test_without_it_nothing_is_added(tmp_path):
    got = train(make_job(tmp_path, steps=8))
    assert not any("averaged" in line for line in got.history)


@pytest.mark.parametrize("stop", [2, 6])
def test_stopping_and_going_on_changes_no_bit(tmp_path, stop):
    _, want = same_after_a_stop(averaged, tmp_path, stop)
    again = averaged(tmp_path / "stopped")
    assert without(train(again, resume=True).history) == without(want.history)
