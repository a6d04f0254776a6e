"""Moments and kept states off the device: equal numbers, less memory, nothing left behind."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from domainwright.methods import METHODS
from domainwright.train import checkpoint, fit, memory
from domainwright.train.job import Interrupted
from domainwright.train.loop import train
from domainwright.train.memory import Line
from domainwright.train.shelf import Shelf, ShelvedAdamW
from tests.tiny import tiny_base
from tests.train.runs import make_job
from tests.train.test_memory import COSTS, LENGTHS, wish
from tests.train.test_run import assert_same, losses, state_of, stop_at


def pair():
    """Parameters as a model has them: a matrix, one with strides of its own, a vector."""
    source = torch.Generator().manual_seed(1)
    shapes = torch.randn(30, 40, generator=source), torch.randn(40, 30, generator=source).T
    return [nn.Parameter(x.clone()) for x in (*shapes, torch.randn(7, generator=source))]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("place", ["disk", "host memory"])
def test_its_numbers_are_those_of_adamw(tmp_path, fused, place):
    ours, theirs = pair(), pair()
    groups = [{"params": ours[:2], "weight_decay": 0.1}, {"params": ours[2:], "weight_decay": 0.0}]
    folder = tmp_path if place == "disk" else None
    shelved = ShelvedAdamW(groups, folder, lr=0.05, betas=(0.9, 0.999), fused=fused)
    plain = torch.optim.AdamW(
        [{**g, "params": p} for g, p in zip(groups, (theirs[:2], theirs[2:]), strict=True)],
        lr=0.05,
        betas=(0.9, 0.999),
        fused=fused,
        foreach=False,
    )
    for step in range(6):
        for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            # One begins later, as a layer that is thawed.
            a.grad = None if n == 1 and step < 2 else torch.randn_like(a)
            b.grad = None if a.grad is None else a.grad.clone()
        shelved.step()
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    mine, want = map(checkpoint.optimiser_tensors, (shelved, plain))
    assert mine.keys() == want.keys() and all(torch.equal(mine[k], want[k]) for k in want)


def full_job(folder, **changes):
    base = tiny_base()
    full = METHODS.get("full")
    adapter = full.build(base, full.Settings(), 0)
    return make_job(folder, base=base, adapter=adapter, rate=1e-3, checkpoint_every=1, **changes)


@pytest.mark.parametrize("average", [None, 0.5])
def test_a_run_is_the_same_and_may_go_on_either_way(tmp_path, monkeypatch, average):
    """The disk's checkpoints are those of a run without it, also in several files."""
    straight = full_job(tmp_path / "straight", average=average)
    want = train(straight)
    monkeypatch.setattr(checkpoint, "SHARD", 30_000)
    for first, then in ((True, True), (True, False), (False, True)):
        folder = tmp_path / f"{first}-{then}"
        with pytest.raises(Interrupted):
            train(full_job(folder, offload=first, average=average), **stop_at(9))
        assert len(list((folder / "checkpoints" / "step-0000009").glob("*.safetensors"))) > 3
        job = full_job(folder, offload=then, average=average)
        got = train(job, resume=True)
        assert losses(got) == losses(want)
        assert_same(state_of(job), state_of(straight))
        # Its file has no name, so not even a kill would leave it behind.
        assert {p.name for p in folder.iterdir()} == {"checkpoints", "metrics.jsonl"}


MEASURED = """
import json, sys
from pathlib import Path
import torch
from domainwright.core import machine
from domainwright.train.shelf import Shelf, ShelvedAdamW

torch.set_num_threads(1)
weights = [torch.nn.Parameter(torch.ones(2048, 1024)) for _ in range(24)]  # 192 MiB
for w in weights:
    w.grad = torch.ones_like(w)
small = torch.nn.Parameter(torch.ones(2))
small.grad = torch.ones(2)
torch.optim.AdamW([small], fused=True).step()  # what is loaded once
optimisers = {
    "shelved": lambda: ShelvedAdamW([{"params": weights}], Path(sys.argv[1]), lr=1e-3, fused=True),
    "plain": lambda: torch.optim.AdamW(weights, lr=1e-3, fused=True),
}
found = {}
for name, make in optimisers.items():
    machine.give_back()
    machine.reset_peak()
    before = machine.resident_mib()
    optimiser = make()
    for _ in range(2):
        optimiser.step()
    if name == "shelved":
        kept = Shelf.of({str(n): w for n, w in enumerate(weights)}, Path(sys.argv[1]))
        for n, w in enumerate(weights):
            assert torch.equal(kept[str(n)], w)
            kept.touched(w.nbytes)
    found[name] = machine.peak_rss_mib() - before
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are measured on Linux")
def test_what_lies_there_is_not_in_memory(tmp_path):
    """Moments of 384 MiB and a copy of 192 MiB; at most 64 MiB are there at a time."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["plain"] > 380 and found["shelved"] < 100


def test_an_empty_shelf_and_empty_tensors(tmp_path):
    assert Shelf({}, tmp_path) == {}
    shelf = Shelf.of({"none": torch.zeros(0, 3), "one": torch.tensor(5)}, tmp_path)
    assert shelf["none"].shape == (0, 3) and shelf["one"] == 5


def choice(monkeypatch, memory_mib, *, moments=1000.0, twice=300.0, **settings):
    """(checkpointing, offload, whether it fits, what was probed) where 22 tokens are needed.

    A pass needs 600 MiB for the longest document, 300 with checkpointing; 1,000 MiB are moments.
    """
    asked = []

    def probed(base, build, rows, own, *, recompute, offload):
        asked.append((recompute, offload))
        slope = (twice if recompute else 600.0) / max(LENGTHS)
        line = Line(fixed_mib=0.0 if offload else moments, mib_per_token=slope)
        return replace(
            COSTS,
            resident_mib=100.0,
            kept_mib=0.0,
            training=line,
            movable_mib=0.0 if offload else moments,
            recompute=recompute,
            offload=offload,
        )

    monkeypatch.setattr(fit, "probe", probed)
    monkeypatch.setattr(memory.machine, "resident_mib", lambda: 100.0)
    found = fit.fit(tiny_base(), None, wish(memory_mib / (1 - memory.MARGIN), **settings), 5)
    return (found.gradient_checkpointing, found.offload, found.fits, asked), found


ONCE = {"gradient_checkpointing": False}


@pytest.mark.parametrize(
    ("memory_mib", "settings", "want"),
    [
        (1701, {}, (False, False, True, [(False, False)])),
        (1699, {}, (False, True, True, [(False, False), (False, True)])),
        (701, {}, (False, True, True, [(False, False), (False, True)])),
        (699, {}, (True, True, True, [(False, False), (True, False), (True, True)])),
        (399, {}, (True, True, False, [(False, False), (True, False), (True, True)])),
        (1699, {"offload": False}, (True, False, True, [(False, False), (True, False)])),
        (1399, {"offload": False}, (True, False, False, [(False, False), (True, False)])),
        (9999, {"offload": True}, (False, True, True, [(False, True)])),
        (699, {"offload": True}, (True, True, True, [(False, True), (True, True)])),
        (699, ONCE, (False, True, False, [(False, False), (False, True)])),
        (1699, {"gradient_checkpointing": True}, (True, False, True, [(True, False)])),
    ],
)  # fmt: skip
def test_offload_is_taken_where_it_is_needed(monkeypatch, memory_mib, settings, want):
    assert choice(monkeypatch, memory_mib, **settings)[0] == want


def test_it_is_not_tried_where_it_would_move_little(monkeypatch):
    """An adapter's moments; and what is refused names what would fit."""
    got, found = choice(monkeypatch, 349, moments=20.0)
    assert got == (True, False, False, [(False, False), (True, False)])
    assert "offload" not in found.cause + found.remedy
    _, found = choice(monkeypatch, 1399, offload=False)
    assert "with gradient checkpointing, and" in found.cause
    assert "set `train: {offload: true}`" in found.remedy
    _, found = choice(monkeypatch, 399)
    assert "with gradient checkpointing and offload, and" in found.cause
    assert "offload: true" not in found.remedy and "checkpointing: true" not in found.remedy


def test_no_probe_holds_what_cannot_fit(monkeypatch):
    """A full run whose weights, gradients and moments are over the budget: offload at once."""
    job = full_job(None)
    asked = []
    monkeypatch.setattr(fit, "probe", lambda *_, recompute, offload: asked.append(offload) or COSTS)
    monkeypatch.setattr(memory.machine, "resident_mib", lambda: 100.0)
    trained = 4 * sum(p.nbytes for p in job.adapter.parameters()) / 2**20
    for room in (trained - 0.1, trained + 0.1):
        fit.measure(job.base, lambda: job.adapter, wish(100 + room, gradient_checkpointing=False))
    assert asked[0] is True and asked[1] is False


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="else zeros are written")
def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path):
    """A page of a mapped file that finds no block would kill the process."""
    with pytest.raises(OSError, match=rf"(File too large|No space left).*{tmp_path}"):
        Shelf({"vast": torch.zeros(1).expand(2**50)}, tmp_path)
