"""Running out of memory, gradient checkpointing, and what a run is predicted to take."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from domainwright.core import machine
from domainwright.core.errors import CapabilityError
from domainwright.methods import METHODS
from domainwright.models.base import Base
from domainwright.train import fit, memory, step
from domainwright.train import probe as probe_module
from domainwright.train.fit import Wish
from domainwright.train.loop import Interrupted, train
from domainwright.train.loss import batch_of, summed_loss
from domainwright.train.memory import Line, halved, out_of_memory
from domainwright.train.order import Order, micro_batches
from domainwright.train.probe import Costs, probe, work
from domainwright.train.recompute import blocks, recomputed
from domainwright.train.regimes import ReplaySettings
from domainwright.train.settings import TrainSettings
from domainwright.train.step import take_step, within_memory
from tests.tiny import CONFIGS, PACKED, tiny_base, train_rows
from tests.train.runs import LENGTHS, make_job
from tests.train.stopped import stop_at

FAILURES = {
    "cpu": RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"
    ),
    "gpu": torch.OutOfMemoryError("CUDA out of memory."),
    "python": MemoryError(),
}


def failing(monkeypatch, error, *, over=math.inf, on=()):
    """Passes of more than `over` tokens fail, and those with the numbers in `on`."""
    plain, seen = step.summed_loss, []

    def loss(base, flat, *targets):
        tokens = flat.tokens
        if torch.is_grad_enabled():
            seen.append(tokens)
            if tokens > over or len(seen) in on:
                raise error
        return plain(base, flat, *targets)

    monkeypatch.setattr(step, "summed_loss", loss)
    return seen


def state_of(job):
    return {k: v.clone() for k, v in job.adapter.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def without(history, *names):
    return [{k: v for k, v in x.items() if k not in ("seconds", *names)} for x in history]


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_out_of_memory_becomes_a_run_with_smaller_passes(tmp_path, monkeypatch, error):
    """The same losses and weights, bit for bit, as a run that began with those passes."""
    job = make_job(tmp_path / "job", micro=10_000)
    first = sum(len(r.ids) for r in Order(job.rows, 3, job.seed).step(0))
    again = make_job(tmp_path / "again", micro=first // 2)
    want = train(again)
    seen = failing(monkeypatch, error, over=first - 1)
    told = []
    got = train(job, listen=told.append)
    assert seen[0] == first and max(seen[1:]) <= max(first // 2, 22)
    assert same(state_of(job), state_of(again))
    # The check before the first step was read in one pass: its sum has another order.
    assert without(got.history, "micro_tokens")[1:] == without(want.history)[1:]
    assert got.history[1]["micro_tokens"] == first // 2
    assert all("micro_tokens" not in line for line in got.history[2:])
    assert told[0].facts["out of memory"] == f"passes of {first // 2} tokens from here"
    assert "out of memory" not in told[1].facts


def test_a_step_that_fails_half_way_leaves_no_gradient_behind(tmp_path, monkeypatch):
    """The second pass of a step fails: what the first had added must not be counted twice."""
    rows = train_rows((9, 9, 9, 9))
    gradients = []
    for on in ((), (2,)):
        job = make_job(tmp_path, micro=18)
        parameters = list(job.adapter.parameters())
        optimiser = torch.optim.SGD(parameters, lr=0.0)
        seen = failing(monkeypatch, MemoryError(), on=on)
        with job.adapter.attached():
            after, _ = within_memory(
                job,
                rows,
                lambda job, o=optimiser, p=parameters: take_step(job, o, p, 0, rows),
            )
        monkeypatch.undo()
        gradients.append([p.grad.clone() for p in parameters])
    assert (after.micro_tokens, seen) == (9, [18, 18, 9, 9, 9, 9])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_single_document_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    failing(monkeypatch, FAILURES["cpu"], over=0)
    job = make_job(tmp_path, micro=10_000)
    with pytest.raises(
        CapabilityError, match=r"single document .* can't allocate memory"
    ) as caught:
        train(job)
    assert "gradient_checkpointing: true" in caught.value.fix
    with pytest.raises(CapabilityError) as caught:
        train(replace(make_job(tmp_path), recompute=True))
    assert "gradient_checkpointing" not in caught.value.fix
    assert "lower train.max_tokens" in caught.value.fix


def test_other_errors_are_not_taken_for_missing_memory(tmp_path, monkeypatch):
    failing(monkeypatch, RuntimeError("shapes do not match"), over=0)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(make_job(tmp_path))
    assert not out_of_memory(ValueError("can't allocate memory"))


def test_an_update_without_memory_is_not_redone(tmp_path, monkeypatch):
    def step(*_, **__):
        raise FAILURES["cpu"]

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(CapabilityError, match="optimiser's state"):
        train(make_job(tmp_path))


def test_checks_shrink_too(tmp_path, monkeypatch):
    plain = step.summed_loss

    def loss(base, flat, *targets):
        if flat.tokens > 25:
            raise MemoryError
        return plain(base, flat, *targets)

    monkeypatch.setattr(step, "summed_loss", loss)
    job = make_job(tmp_path / "a", micro=10_000)
    got = train(job)
    assert got.steps == 12


def test_a_resumed_run_keeps_its_smaller_passes(tmp_path, monkeypatch):
    seen = failing(monkeypatch, MemoryError(), over=30)
    straight = make_job(tmp_path / "a", micro=10_000)
    train(straight)
    with pytest.raises(Interrupted):
        train(make_job(tmp_path / "b", micro=10_000), **stop_at(4))
    seen.clear()
    job = make_job(tmp_path / "b", micro=10_000)
    train(job, resume=True)
    assert max(seen) <= 30 and same(state_of(job), state_of(straight))


def test_halving_ends_at_one_document():
    rows = train_rows((9, 14, 5, 22))
    limit, seen = 10_000, []
    while (smaller := halved(limit, rows)) is not None:
        assert smaller < limit
        seen.append(smaller)
        limit = smaller
    assert seen[0] == 25 and all(len(g) == 1 for g in micro_batches(rows, limit))
    assert halved(1, rows) is None


LIMITED = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from dataclasses import replace
from domainwright.core.errors import CapabilityError
from domainwright.train.loop import train
from tests.tiny import tiny_base, train_rows
from tests.train.runs import make_job
from tests.train.stopped import stop_at

folder, room = Path(sys.argv[1]), int(sys.argv[2])
# Wide and shallow: a pass over all documents needs some hundred MiB of activations.
base = tiny_base(intermediate_size=8192, max_position_embeddings=2048)
rows = train_rows((300,) * 8)
job = make_job(folder, base=base, rows=rows, development=rows[:1], general=rows[:1],
               batch=8, steps=2, checks=1, rate=1e-3, micro=10_000)
# Shorter than any pass that is to be refused: what it leaves free would be enough for one as long.
warm = train_rows((30,))
train(replace(make_job(folder / "warm", base=base, rows=warm, development=warm,
                       general=[], batch=1, steps=1, checks=1, rate=1e-3)))
held = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (held + room * 2**20,) * 2)
try:
    got = train(job)
    print("passes", *[x["micro_tokens"] for x in got.history if "micro_tokens" in x])
except CapabilityError as error:
    print("refused", error.cause)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
@pytest.mark.parametrize(("room", "said"), [(260, "passes"), (5, "refused")])
def test_a_real_limit_on_memory(tmp_path, room, said):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), str(room)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.split()
    assert first == said, done.stdout
    if said == "passes":
        assert 300 <= int(rest[-1]) < 2400


@pytest.mark.parametrize("family", CONFIGS)
def test_gradients_are_the_same_bits_with_checkpointing(tmp_path, family):
    """With dropout, too: each block draws its noise again from the same state."""
    found = []
    for on in (False, True):
        base = tiny_base(family)
        job = make_job(tmp_path, base=base, method={"rank": 4, "dropout": 0.3})
        with torch.no_grad():
            for b in job.adapter.B:
                b.normal_(generator=torch.Generator().manual_seed(1))
        parameters = list(job.adapter.parameters())
        optimiser = torch.optim.SGD(parameters, lr=0.0)
        calls = [0]
        for block in blocks(base):
            block.register_forward_hook(lambda *_, n=calls: n.__setitem__(0, n[0] + 1))
        with job.adapter.attached(), recomputed(base, on):
            told = take_step(job, optimiser, parameters, 3, job.rows)
        found.append((told, [p.grad.clone() for p in parameters]))
        assert len(blocks(base)) == 2 and calls[0] > 0
        assert not [m for m in blocks(base) if "forward" in m.__dict__]
    assert found[0][0] == found[1][0] and found[0][0][1] > 0
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def kept(base, rows, on):
    """Elements that autograd keeps for the backward pass of one batch."""
    total = [0]
    seen = set()

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in seen:
            seen.add(tensor.untyped_storage().data_ptr())
            total[0] += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), recomputed(base, on):
        loss = summed_loss(base, *batch_of(base, rows))
        during = total[0]
        loss.backward()
    return during


@pytest.mark.parametrize("family", PACKED)
def test_checkpointing_keeps_less(tmp_path, family):
    base = tiny_base(family)
    base.trunk = None  # what it keeps, autograd does not see
    job = make_job(tmp_path, base=base)
    with job.adapter.attached():
        rows = train_rows((200,))
        assert kept(base, rows, True) < 0.5 * kept(base, rows, False)


def test_the_fused_trunk_is_told():
    base = tiny_base("llama")
    assert base.trunk is not None and not base.trunk.checkpointing
    for on in (False, True):
        with recomputed(base, on):
            assert base.trunk.checkpointing is on
        assert not base.trunk.checkpointing


def test_a_whole_run_with_checkpointing_ends_in_the_same_bits(tmp_path):
    jobs = [replace(make_job(tmp_path / str(on)), recompute=on) for on in (False, True)]
    histories = [without(train(job).history) for job in jobs]
    assert histories[0] == histories[1] and same(*map(state_of, jobs))


@pytest.mark.parametrize(
    "wish", [{}, {"label_smoothing": 0.1}, {"replay": ReplaySettings(share=0.5)}]
)
def test_freed_memory_goes_back_before_every_recomputed_pass(tmp_path, monkeypatch, wish):
    """Gaps that passes of other lengths leave would add up to more than checkpointing saves."""
    plain, told = Base.hidden, []

    def hidden(*inputs):
        told.append("pass")
        return plain(*inputs)

    monkeypatch.setattr(Base, "hidden", hidden)
    monkeypatch.setattr(machine, "give_back", lambda: told.append("back"))
    for on in (False, True):
        settings = TrainSettings(batch=3, **wish)
        general = train_rows((12, 9)) if "replay" in wish else ()
        job = make_job(tmp_path, micro=25, recompute=on, settings=settings, replay=general)
        optimiser = step.optimiser_of(job)
        told.clear()
        with job.adapter.attached(), recomputed(job.base, on):
            take_step(job, optimiser, list(job.adapter.parameters()), 3, job.rows)
        passes = told.count("pass")
        assert passes > 2 and told == (["back", "pass"] if on else ["pass"]) * passes


# What a run is predicted to take.

COSTS = Costs(
    resident_mib=1000.0,
    training=Line(fixed_mib=100.0, mib_per_token=1.0),
    reading=Line(fixed_mib=50.0, mib_per_token=0.5),
    seconds_per_pass=0.1,
    seconds_per_flop=1e-6,
    reading_seconds_per_token=0.01,
    checkpoint_seconds=2.0,
    kept_mib=10.0,
    update_seconds=0.3,
)


def wish(memory_mib=None, **settings):
    gigabytes = None if memory_mib is None else memory_mib * 2**20 / 1e9
    return Wish(
        rows=train_rows(LENGTHS),
        watched=train_rows((8, 13)),
        development=1,
        settings=TrainSettings(**{"batch": 3, "checks": 3, "checkpoint_every": 5, **settings}),
        seed=5,
        memory_gb=gigabytes,
    )


def decided(base, wished, steps=12, **measured):
    return fit.decide(base, wished, replace(COSTS, **measured), steps)


def test_a_prediction_is_the_sum_over_the_real_passes(tmp_path):
    base = tiny_base()
    found = decided(base, wish(2000, micro_tokens=30))
    job = make_job(tmp_path, base=base)
    passes, flops, largest = 0, 0.0, 0
    for number in range(12):
        rows = Order(job.rows, 3, 5).step(number)
        for group in micro_batches(rows, 30):
            passes, largest = passes + 1, max(largest, sum(len(r.ids) for r in group))
        flops += work(base, rows).flops
    assert found.train_seconds == pytest.approx(0.1 * passes + 1e-6 * flops + 12 * 0.3 + 3 * 2.0)
    assert found.check_seconds == pytest.approx(4 * 21 * 0.01)
    assert found.run_seconds == pytest.approx(found.train_seconds + 3 * 21 * 0.01)
    # Two looks at general text, one at all.
    assert found.draw_back_seconds == pytest.approx((2 * 13 + 21) * 0.01)
    assert found.look_seconds == pytest.approx(found.check_seconds + found.draw_back_seconds)
    assert found.peak_mib == pytest.approx(1000 + 10 + 100 + largest)
    assert found.fits and found.require() is found


def test_work_counts_what_the_profiler_counts():
    """torch's own FLOP counter on one pass; attention differs, so its share is kept small."""
    from torch.utils.flop_counter import FlopCounterMode

    base = tiny_base(intermediate_size=512)
    base.trunk = None  # its kernels are not counted, and it skips what nobody asked for
    lora = METHODS.get("lora")
    adapter = lora.build(base, lora.Settings(rank=1), 0)
    rows = train_rows((40, 30), prompt=20)
    # PyTorch's own products only: the fused node's are counted as well, being aten calls.
    with adapter.attached(), FlopCounterMode(display=False) as counter:
        loss = summed_loss(base, *batch_of(base, rows))
        loss.backward()
    assert counter.get_total_flops() == pytest.approx(work(base, rows).flops, rel=0.15)


def test_the_budget_decides_on_the_size_of_a_pass():
    base = tiny_base()
    longest = max(LENGTHS)
    for tokens in (longest, 40, 100):
        found = decided(base, wish((1110 + tokens + 0.5) / (1 - memory.MARGIN)))
        assert (found.micro_tokens, found.fits) == (tokens, True)
    assert decided(base, wish(10**6)).micro_tokens == memory.LARGEST
    small = decided(base, wish((1110 + longest - 0.5) / (1 - memory.MARGIN)))
    assert not small.fits and small.micro_tokens == longest
    with pytest.raises(CapabilityError, match=r"needs about 1\.22 GB for a pass of 22 tokens") as e:
        small.require()
    assert e.value.fix.startswith("raise budget.memory_gb to 1.3, lower train.max_tokens to 21, ")
    assert "gradient_checkpointing: true" in e.value.fix
    twice = decided(base, wish(1100), recompute=True)
    assert "gradient_checkpointing" not in twice.remedy and "checkpointing" in twice.cause
    # What is advised is taken.
    assert decided(base, wish(1.3e9 / 2**20)).fits


def test_passes_asked_for_are_checked_not_changed():
    base = tiny_base()
    room = (1110 + 30.5) / (1 - memory.MARGIN)
    found = decided(base, wish(room, micro_tokens=10_000))
    assert found.micro_tokens == 10_000 and not found.fits
    assert "lower train.micro_tokens to 30" in found.remedy
    assert decided(base, wish(room, micro_tokens=30)).fits


def test_checkpointing_is_taken_only_where_it_is_needed(monkeypatch):
    asked = []

    def probed(base, build, rows, settings, *, recompute, offload):
        assert not offload
        asked.append(recompute)
        slope = 0.1 if recompute else 10.0
        line = Line(fixed_mib=100.0, mib_per_token=slope)
        return replace(COSTS, training=line, recompute=recompute)

    monkeypatch.setattr(fit, "probe", probed)
    monkeypatch.setattr(memory.machine, "resident_mib", lambda: 100.0)
    base = tiny_base()

    def choice(memory_mib, **settings):
        asked.clear()
        found = fit.fit(base, None, wish(memory_mib, **settings), 5)
        return found.gradient_checkpointing, found.fits, list(asked)

    assert choice(5000) == (False, True, [False])
    assert choice(1200) == (True, True, [False, True])
    assert choice(1000) == (True, False, [False, True])
    assert choice(5000, gradient_checkpointing=True) == (True, True, [True])
    assert choice(1200, gradient_checkpointing=False) == (False, False, [False])


@pytest.mark.parametrize("recompute", [False, True])
def test_a_probe_leaves_no_trace(tmp_path, recompute):
    job = make_job(tmp_path)
    before = state_of(job)
    stream = torch.get_rng_state()
    lora = METHODS.get("lora")
    costs = probe(
        job.base,
        lambda: lora.build(job.base, lora.Settings(rank=4), 0),
        job.rows,
        job.settings,
        recompute=recompute,
    )
    assert torch.equal(torch.get_rng_state(), stream) and same(state_of(job), before)
    assert not job.base.hooks._on and not [b for b in blocks(job.base) if "forward" in b.__dict__]
    assert costs.resident_mib > 50 and costs.training.mib_per_token >= 0
    assert costs.seconds(work(job.base, job.rows).flops) > 0 and costs.checkpoint_seconds > 0


def test_a_line_goes_through_its_points_and_never_falls():
    line = Line.through((100, 30.0), (300, 70.0))
    assert (line.at(100), line.at(300), line.at(0)) == (30.0, 70.0, 10.0)
    assert line.tokens(70.0) == 300 and line.tokens(5.0) == 0
    flat = Line.through((100, 80.0), (300, 70.0))
    assert flat.at(10**6) == 70.0 and flat.tokens(71.0) == 10**9


def test_what_rows_begin_with_together_counts_once():
    """As a pass reads it; each row's own tokens attend to it all the same."""
    base = tiny_base()
    long, other = train_rows((20, 20))
    twin = replace(long, ids=[*long.ids[:15], *other.ids[15:]])
    apart, together = work(base, [long, twin], apart=True), work(base, [long, twin])
    assert (apart.tokens, together.tokens) == (40, 25)
    alone = replace(long, ids=long.ids[:15], supervised=[False] * 15)
    assert apart.flops - together.flops == pytest.approx(work(base, [alone]).flops)
    both = work(base, [long]).flops + work(base, [other]).flops
    assert work(base, [long, other]).flops == pytest.approx(both)


def test_no_document_of_a_probe_is_the_beginning_of_another():
    """Rows alike, or one row again and again, would be read once: in no time, and little room."""
    base, row = tiny_base(), train_rows((9,))[0]
    chosen = probe_module._cut(base, [row, row], 60, 8)
    assert len(chosen) > 6 and work(base, chosen).tokens == sum(len(r.ids) for r in chosen)
