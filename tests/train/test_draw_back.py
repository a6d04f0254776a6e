"""A state that forgets too much is drawn back, and no further than it must be."""

import json
import math
from itertools import chain, repeat

import pytest
import torch

from domainwright.core.errors import RunFailed
from domainwright.methods import METHODS
from domainwright.train import run as runs
from domainwright.train.draw_back import LOOKS, NEAR, between, draw_back, start_of
from domainwright.train.job import Interrupted
from domainwright.train.loop import train
from tests.methods.test_method_contract import family_of, logits, step
from tests.tiny import tiny_base
from tests.train.runs import make_job


def adapted(name, **settings):
    base = tiny_base(family_of(name))
    method = METHODS.get(name)
    adapter = method.build(base, method.Settings(**settings), 0)
    start = start_of(adapter)
    adapter.attach()
    step(base, adapter)
    return base, adapter, start, {k: v.clone() for k, v in adapter.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "settings"), [("lora", {}), ("lora", {"start": "pissa"}), ("dora", {}), ("full", {})]
)
def test_the_ends_of_the_way_are_the_base_and_the_trained_state(name, settings):
    base, adapter, start, trained = adapted(name, **settings)
    want = logits(base)
    adapter.load_state_dict(between(adapter, start, trained, 1.0))
    assert torch.equal(logits(base), want)
    adapter.load_state_dict(between(adapter, start, trained, 0.0))
    with base.hooks.disabled():
        bare = logits(base)
    torch.testing.assert_close(logits(base), bare, rtol=0, atol=2e-5)


def test_a_share_of_lora_is_that_share_of_its_change():
    base, adapter, start, trained = adapted("lora")
    whole = dict(adapter.merged_parameters())
    adapter.load_state_dict(between(adapter, start, trained, 0.25))
    for name, part in adapter.merged_parameters():
        own = base.model.get_parameter(name)
        torch.testing.assert_close(part - own, 0.25 * (whole[name] - own), rtol=0, atol=1e-6)


CURVES = {
    "line": lambda s: s,
    "square": lambda s: s**2,
    "cube": lambda s: s**3,
    "better at first": lambda s: 1.3 * s**2 - 0.3 * s,
    "steep at first": lambda s: s**0.5,
    "a wall": lambda s: 0.01 * s if s < 0.4 else 30.0,
    "beyond all numbers": lambda s: s**2 if s < 0.7 else math.inf,
    "not a number": lambda s: s**2 if s < 0.7 else math.nan,
}


@pytest.mark.parametrize("room", [0.1, 0.5, 0.77, 0.99])
@pytest.mark.parametrize("curve", CURVES)
def test_the_largest_share_within_the_limit_is_found(room, curve):
    _, adapter, start, trained = adapted("lora")
    reference = trained["B.0"]
    seen = []

    def risen(share):
        return CURVES[curve](share)

    def general_rise():
        seen.append(float(adapter.state_dict()["B.0"].norm() / reference.norm()))
        return risen(seen[-1])

    found = draw_back(adapter, start, trained, room, risen(1.0), general_rise)
    assert len(seen) <= (2 if curve in ("line", "square") else LOOKS)
    assert risen(found.share) <= room
    largest = max(s / 1000 for s in range(1, 1000) if risen(s / 1000) <= room)
    # Where no power tells, five looks leave more than the 32nd that five halvings would.
    assert risen(found.share) >= NEAR * room or found.share >= largest - 0.06
    adapter.load_state_dict(found.tensors)
    assert general_rise() == pytest.approx(risen(found.share))
    assert draw_back(adapter, start, trained, 0.0, 1.0, lambda: 0.5) is None
    falls = iter([0.5, -0.1, -0.3, -0.5, -0.7])
    assert draw_back(adapter, start, trained, -0.8, 1.0, lambda: next(falls)) is None


@pytest.fixture
def forgetful(monkeypatch):
    """General loss that rises with the size of the change, past the limit after a few steps."""
    plain = runs.Watched.losses

    def losses(self, job, *rest):
        found = plain(self, job, *rest)
        size = float(sum(b.detach().norm() for b in job.adapter.B))
        return {**found, "general_loss": 3.0 + size / 150}

    monkeypatch.setattr(runs.Watched, "losses", losses)


def finished(folder, **changes):
    job = make_job(folder, max_forgetting=0.02, checks=4, **changes)
    return job, train(job)


def test_a_run_that_only_forgets_too_much_keeps_a_share(forgetful, tmp_path):
    job, trained = finished(tmp_path / "run")
    last = trained.history[-1]
    assert 0 < last["kept_share"] < 1 and last["general_loss"] - 3.0 <= 0.8 * 0.02
    assert trained.best_loss == last["development_loss"] < trained.base_loss
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["kept_share"] == last["kept_share"]
    size = float(sum(b.detach().norm() for b in job.adapter.B))
    assert size / 150 <= 0.8 * 0.02 + 1e-6


def test_resumed_it_ends_with_the_same_weights(forgetful, tmp_path):
    job, _ = finished(tmp_path / "whole")
    stops = chain([False] * 7, repeat(True))
    part = make_job(tmp_path / "part", max_forgetting=0.02, checks=4)
    with pytest.raises(Interrupted):
        train(part, stop=lambda: next(stops))
    again = make_job(tmp_path / "part", max_forgetting=0.02, checks=4)
    train(again, resume=True)
    for a, b in zip(job.adapter.parameters(), again.adapter.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("changes", [{}, {"average": 0.5}])
def test_a_run_that_has_ended_is_read_back_without_another_look(
    forgetful, tmp_path, monkeypatch, changes
):
    job, trained = finished(tmp_path / "run", **changes)
    assert trained.history[-1]["kept_share"] < 1
    metrics = (tmp_path / "run/metrics.jsonl").read_text()
    monkeypatch.setattr(runs.Watched, "losses", lambda *_: pytest.fail("it looked again"))
    again = make_job(tmp_path / "run", max_forgetting=0.02, checks=4, **changes)
    assert train(again, resume=True) == trained
    for a, b in zip(job.adapter.parameters(), again.adapter.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (tmp_path / "run/metrics.jsonl").read_text() == metrics


def test_where_no_share_helps_the_run_is_refused(monkeypatch, tmp_path):
    plain = runs.Watched.losses

    def losses(self, job, *rest):
        changed = float(sum(b.detach().norm() for b in job.adapter.B)) > 0
        return {**plain(self, job, *rest), "general_loss": 3.0 + changed}

    monkeypatch.setattr(runs.Watched, "losses", losses)
    with pytest.raises(RunFailed, match="Every state of the run forgets more than the limit"):
        finished(tmp_path / "run")


def test_the_best_state_within_the_limit_stays_where_a_share_is_no_better(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "draw_back", lambda *_: pytest.fail("nothing was over the limit"))
    job = make_job(tmp_path / "run")
    train(job)
