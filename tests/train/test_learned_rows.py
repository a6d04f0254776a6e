"""LoRA with rows of the embedding in the loop: watched, resumed, drawn back, beside others."""

from functools import partial

import pytest
import torch
from torch.nn import functional

from domainwright.methods import METHODS
from domainwright.train.draw_back import between, start_of
from domainwright.train.loop import train
from domainwright.train.monitor import Monitor
from domainwright.train.passes import Packing
from domainwright.train.together import train_together
from tests.methods.test_method_contract import logits, step
from tests.methods.test_token_rows import words_of
from tests.tiny import own_logits, tiny_base, train_rows
from tests.train.runs import make_job
from tests.train.stopped import same_after_a_stop

SHAPED = {"label_smoothing": 0.1, "prompt_weight": 0.1, "neftune": 5.0, "r_drop": 0.5}


def job_of(folder, base=None, **changes):
    return make_job(folder, base=base, method={"rank": 4, "tokens": words_of()}, **changes)


@pytest.mark.parametrize("changes", [{}, {"recompute": True}, {"weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("shaped", [False, True])
def test_a_run_learns_them_and_leaves_the_base(shaped, changes, tmp_path):
    base = tiny_base()
    before, held = logits(base), base.model.model.embed_tokens.weight.clone()
    job = job_of(tmp_path, base, **(SHAPED if shaped else {}), **changes)
    got = train(job)
    table = dict(job.adapter.merged_parameters())["model.embed_tokens.weight"]
    moved = (table != held).any(1).nonzero()[:, 0].tolist()
    assert moved == sorted(job.adapter.token_ids)
    told = [x["development_loss"] for x in got.history if "development_loss" in x]
    assert told[-1] < told[0]
    assert torch.equal(logits(base), before)


@pytest.mark.parametrize("shaped", [False, True])
def test_fused_and_generic_runs_are_alike(shaped, tmp_path):
    changes = {"label_smoothing": 0.1, "prompt_weight": 0.1} if shaped else {}
    ends = []
    for way in ("fused", "generic"):
        base = tiny_base()
        if way == "generic":
            base.trunk, base.plain_head = None, False
        job = job_of(tmp_path / way, base, steps=4, rate=1e-3, **changes)
        train(job)
        ends.append(job.adapter.token_rows.detach() - start_of_rows(job))
    size = float(ends[0].abs().max())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0.02 * size)


def start_of_rows(job):
    return job.base.model.model.embed_tokens.weight[list(job.adapter.token_ids)]


def test_stopped_and_resumed_it_is_the_same_run(tmp_path):
    same_after_a_stop(partial(job_of, **SHAPED), tmp_path)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2"])
def test_the_monitor_compares_with_the_untouched_base(family):
    base, rows = tiny_base(family), train_rows((7, 12, 5), prompt=1)
    bare = [own_logits(base.model, r.ids)[:-1].detach().log_softmax(1) for r in rows]
    monitor = Monitor(Packing(base, rows))
    lora = METHODS.get("lora")
    adapter = lora.build(base, lora.Settings(tokens=words_of()), 0)
    adapter.attach()
    assert monitor.read(10)["general_kl"] == 0
    step(base, adapter)
    mine = [own_logits(base.model, r.ids)[:-1].detach().log_softmax(1) for r in rows]
    first, second = torch.cat(bare), torch.cat(mine)
    apart = functional.kl_div(second, first, log_target=True, reduction="batchmean")
    assert monitor.read(1000)["general_kl"] == pytest.approx(float(apart), rel=1e-3)
    assert monitor.read(10)["general_kl"] == pytest.approx(float(apart), rel=1e-3)


def test_drawn_back_they_are_part_of_the_way():
    base, lora = tiny_base(), METHODS.get("lora")
    adapter = lora.build(base, lora.Settings(tokens=words_of()), 0)
    start = start_of(adapter)
    adapter.attach()
    before = logits(base)
    step(base, adapter)
    want, trained = logits(base), start_of(adapter)
    adapter.load_state_dict(between(adapter, start, trained, 0.5))
    half = (start["token_rows"] + trained["token_rows"]) / 2
    torch.testing.assert_close(adapter.token_rows.data, half)
    adapter.load_state_dict(between(adapter, start, trained, 1.0))
    assert torch.equal(logits(base), want)
    adapter.load_state_dict(between(adapter, start, trained, 0.0))
    with base.hooks.disabled():
        torch.testing.assert_close(logits(base), before, rtol=0, atol=2e-5)


def test_a_head_of_another_dtype_learns_too(tmp_path):
    """bfloat16 pads its rows to a grid; what fills it must not pull on a learned row."""
    base = tiny_base("llama", torch.bfloat16)
    job = job_of(tmp_path, base, steps=3)
    train(job)
    assert job.adapter.token_rows.dtype == torch.float32
    assert (job.adapter.token_rows != start_of_rows(job).float()).any(1).all()


def test_beside_others_it_goes_in_turn(tmp_path):
    want = job_of(tmp_path / "alone")
    told = train(want)
    base = tiny_base()
    jobs = [job_of(tmp_path / "0", base), make_job(tmp_path / "1", base=base)]
    got = train_together(jobs, way="fused")
    assert [x.get("loss") for x in got[0].history] == [x.get("loss") for x in told.history]
    for a, b in zip(jobs[0].adapter.parameters(), want.adapter.parameters(), strict=True):
        assert torch.equal(a, b)
