"""In turn or fused: the probe that chooses, who cannot share a batch, and who is refused."""

from dataclasses import replace

import pytest
import torch

from domainwright.core.errors import ConfigError
from domainwright.methods import METHODS
from domainwright.models.flat import flatten
from domainwright.train import together
from domainwright.train.loop import Interrupted, train
from domainwright.train.together import train_together
from tests.tiny import tiny_base
from tests.train.candidates import alone, assert_alike, make_jobs, without


@pytest.mark.parametrize("faster", ["in turn", "fused"])
def test_the_probe_chooses_and_leaves_no_trace(tmp_path, monkeypatch, faster):
    plain = together.Together._both

    def both(self, *args):
        apart, _ = plain(self, *args)
        return apart, {"in turn": 1.0, "fused": 2.0} | {faster: 0.5}

    monkeypatch.setattr(together.Together, "_both", both)
    others = make_jobs(tmp_path / "said", tiny_base())
    want = train_together(others, way=faster)
    stream = torch.get_rng_state()
    jobs = make_jobs(tmp_path / "probed", tiny_base())
    got = train_together(jobs)
    assert torch.equal(torch.get_rng_state(), stream)
    assert_alike(got, jobs, want, others, exact=True)
    for told in got:
        found = told.history[1]["together"]
        assert found["way"] == faster and found["candidates"] == 3
        assert (
            found["gradients_apart"] < 1e-5 and found[f"{faster.replace(' ', '_')}_seconds"] == 0.5
        )
        assert all("together" not in line for line in told.history[2:])


def test_the_probe_measures(tmp_path):
    (first, *_) = train_together(make_jobs(tmp_path, tiny_base(), steps=3))
    found = first.history[1]["together"]
    assert found["in_turn_seconds"] > 0 and found["fused_seconds"] > 0
    faster = "fused" if found["fused_seconds"] < found["in_turn_seconds"] else "in turn"
    assert found["way"] == faster


@pytest.mark.parametrize("wrong", ["differ", "memory"])
def test_a_fused_step_that_differs_or_does_not_fit_is_not_chosen(tmp_path, monkeypatch, wrong):
    plain = together.summed_losses

    def losses(*args):
        if wrong == "memory":
            raise MemoryError
        return 1.01 * plain(*args)

    monkeypatch.setattr(together, "summed_losses", losses)
    others, want = alone(tmp_path / "alone", steps=3)
    jobs = make_jobs(tmp_path / "jobs", tiny_base(), steps=3)
    got = train_together(jobs)
    assert got[0].history[1]["together"]["way"] == "in turn"
    assert_alike(got, jobs, want, others, exact=True)
    if wrong == "memory":  # said to be fused, it falls back step by step
        jobs = make_jobs(tmp_path / "said", tiny_base(), steps=3)
        assert_alike(train_together(jobs, way="fused"), jobs, want, others, exact=True)


def test_a_resumed_run_goes_on_as_its_probe_had_chosen(tmp_path, monkeypatch):
    heard = []
    with pytest.raises(Interrupted):
        train_together(
            make_jobs(tmp_path, tiny_base()), listen=heard.append, stop=lambda: len(heard) > 5
        )
    monkeypatch.setattr(together.Together, "_probe", lambda *_: pytest.fail("probed again"))
    train_together(make_jobs(tmp_path, tiny_base()), resume=True)


def test_one_job_and_none(tmp_path):
    (want,) = [train(make_jobs(tmp_path / "alone", tiny_base(), which=(0,))[0])]
    (got,) = train_together(make_jobs(tmp_path / "job", tiny_base(), which=(0,)))
    assert without(got.history) == without(want.history)
    assert train_together([]) == []


def test_jobs_that_differ_in_what_they_share_are_refused(tmp_path):
    base = tiny_base()
    a, b = make_jobs(tmp_path, base, which=(0, 2))
    for changed, said in (
        ({"seed": 6}, "differ in seed: 6 and 5"),
        ({"micro_tokens": 7}, "differ in micro_tokens: 7 and 120"),
        ({"rows": a.rows[1:]}, "differ in rows;"),
        ({"development": []}, "differ in development;"),
        ({"base": tiny_base()}, "differ in base;"),
        ({"recompute": True}, "differ in recompute"),
        ({"settings": replace(b.settings, batch=2)}, r"train.batch 2, and job 1 has 3"),
        ({"folder": a.folder}, "same folder"),
        ({"adapter": a.adapter}, "same adapter"),
    ):
        with pytest.raises(ConfigError, match=said):
            train_together([a, replace(b, **changed)])
    train_together([a, replace(b, rows=list(a.rows))])


def test_two_owners_on_one_base_read_as_it_is_afterwards(tmp_path):
    base = tiny_base()
    flat = flatten([[5, 6, 7]])
    before = base.hidden(flat)
    lora = METHODS.get("lora")
    assert lora is not None
    train_together(make_jobs(tmp_path, base, steps=3), way="fused")
    assert torch.equal(base.hidden(flat), before)
