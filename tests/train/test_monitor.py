"""Distance from the base on general text, against the eager models' own distributions."""

import pytest
import torch
from torch.nn import functional

from domainwright.train import monitor as monitors
from domainwright.train.loop import train
from domainwright.train.monitor import Monitor
from domainwright.train.passes import Packing
from domainwright.train.step import Watched, mean_loss
from tests.methods.test_method_contract import tuned
from tests.tiny import own_logits, tiny_base, train_rows
from tests.train.runs import make_job


@pytest.mark.parametrize("family", ["llama", "phi", "gemma2", "gpt2", "mamba"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("block", [256, 3])
def test_divergence_and_agreement_are_those_of_the_whole_distributions(
    family, method, block, monkeypatch
):
    monkeypatch.setattr(monitors, "BLOCK", block)
    base, rows = tiny_base(family), train_rows((7, 12, 5), prompt=1)
    bare = [own_logits(base.model, r.ids)[:-1].detach().log_softmax(1) for r in rows]
    monitor = Monitor(Packing(base, rows))
    start = monitor.read(10)
    assert (start["general_kl"], start["general_agreement"]) == (0, 1)
    adapter = tuned(base, method)
    mine = [own_logits(base.model, r.ids)[:-1].detach().log_softmax(1) for r in rows]
    first, second = torch.cat(bare), torch.cat(mine)
    apart = functional.kl_div(second, first, log_target=True, reduction="batchmean")
    same = (first.argmax(1) == second.argmax(1)).float().mean()
    for limit in (10, 1000, 10):
        got = monitor.read(limit)
        assert got["general_kl"] == pytest.approx(float(apart), rel=1e-3)
        assert got["general_agreement"] == pytest.approx(float(same))
    adapter.detach()
    again = monitor.read(10)
    assert again == start


def test_the_loss_beside_it_keeps_every_bit(tmp_path):
    job = make_job(tmp_path, base=tiny_base("llama", torch.bfloat16))
    with job.adapter.attached():
        torch.nn.init.normal_(job.adapter.B[0])
        found = Watched(job).losses(job, 1)
        assert found["general_loss"] == mean_loss(job, job.general)
        assert found["development_loss"] == mean_loss(job, job.development)
    assert found["general_kl"] > 0 and 0 <= found["general_agreement"] <= 1


def test_every_check_of_a_run_tells_it(tmp_path):
    got = train(make_job(tmp_path, steps=6))
    lines = [x for x in got.history if "general_loss" in x]
    assert [x["general_kl"] > 0 for x in lines] == [False, True, True, True]
    assert lines[0]["general_agreement"] == 1
    without = train(make_job(tmp_path / "none", steps=6, general=[]))
    assert not any("general_kl" in x for x in without.history)


def test_a_start_that_is_known_is_the_base(tmp_path):
    known = {"development_loss": 9.0, "general_loss": 9.0}
    got = train(make_job(tmp_path, steps=2, start=known))
    assert got.history[0]["general_kl"] == 0 and got.history[0]["general_loss"] == 9
