"""What training costs on this machine: two steps of different size, a few seconds.

    memory     the line through the peaks of a small and a large pass
    seconds    per pass + work · (seconds per FLOP), from the same two passes; an update apart
    work       4·P·tokens + 4·V·D·targets + 7·q·Σ length²        FLOPs of one training pass

P: parameters of the blocks' linear layers; V·D: the head; q: width of all attention layers
together. Forward and input gradients are 2 each (methods.md §10.4), causal attention 7/2 of
2·q·s². Only the two rates are measured, so the line holds for other lengths and label shares.
Tokens that several rows begin with count once, as a pass reads them; documents of the probe
begin with different ones, or it would time passes that are shorter than they look.

The adapter that is probed is one of its own and the rows are whole training documents, so the
pass is the run's: same hooks, same kernels, same optimiser, same penalties and noise.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.models.tree import grow
from domainwright.train import checkpoint
from domainwright.train.job import Job
from domainwright.train.loss import BLOCK
from domainwright.train.memory import MIB, Line, Meter, largest_pass
from domainwright.train.objective import check_fit, penalties_of
from domainwright.train.recompute import recomputed
from domainwright.train.run import write_checkpoint
from domainwright.train.settings import TrainSettings
from domainwright.train.step import mean_loss, optimiser_of, take_step

SECONDS = 2.0
"""About how long the large pass may take."""
FEWEST = 640
"""Tokens of the large pass on the slowest machine: fewer would not show the slope."""
FULL = BLOCK + 32
"""Tokens of the small pass at least: below, the head's block is not full yet, and the line from
there would rise too fast."""
WARM, TIMED = 48, 192
"""Tokens of the first pass, which pays for everything once, and of the one that tells the rate."""
PIECE = 64
"""Tokens of a document in the small pass, where attention is to cost nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Rates of one base with one adapter."""

    resident_mib: float
    """Held before the run."""
    training: Line
    """Memory over `resident_mib` by tokens of a training pass, optimiser included."""
    reading: Line
    """The same for a pass without gradients."""
    seconds_per_pass: float
    seconds_per_flop: float
    reading_seconds_per_token: float
    checkpoint_seconds: float
    kept_mib: float
    """Copy of the best state, and the mean where states are averaged."""
    update_seconds: float = 0.0
    """Of the optimiser, once a step."""
    movable_mib: float = 0.0
    """What offload would free of the device: the optimiser's state and the copies."""
    recompute: bool = False
    """Whether it was measured with gradient checkpointing."""
    offload: bool = False
    """Whether it was measured with the optimiser's state off the device."""
    apart: bool = False
    """Whether every row is read whole: noise is drawn for each."""

    def peak_mib(self, tokens: int, watched: int) -> float:
        """Peak with `tokens` in the largest training pass, `watched` in the largest check."""
        over = max(self.training.at(tokens), self.reading.at(watched))
        return self.resident_mib + self.kept_mib + over

    def seconds(self, flops: float) -> float:
        """Of one pass."""
        return self.seconds_per_pass + self.seconds_per_flop * flops


class Work(NamedTuple):
    flops: float
    tokens: int


def work(base: Base, rows: Sequence[TrainRow], *, apart: bool = False) -> Work:
    """What one training pass over `rows` reads."""
    linear = sum(x.inputs * x.outputs for x in base.hooks.linears)
    width = sum(x.outputs if x.point in ("q", "qkv") else 0 for x in base.hooks.linears)
    parts = _parts(base, rows, apart)
    tokens = sum(stop - start for start, stop in parts)
    targets, pairs = sum(r.targets for r in rows), sum(b**2 - a**2 for a, b in parts)
    flops = 4.0 * linear * tokens + 4.0 * base.head_VD.numel() * targets + 7.0 * width * pairs
    return Work(flops, tokens)


def _parts(base: Base, rows: Sequence[TrainRow], apart: bool) -> list[tuple[int, int]]:
    """(first position, end) of all that a pass reads; what rows begin with together is one part."""
    if apart or base.feeding == "single":
        return [(0, len(row.ids)) for row in rows]
    tree = grow([tuple(row.ids) for row in rows])
    return [(d, d + len(own)) for d, own in zip(tree.depths, tree.documents, strict=True)]


def probe(
    base: Base,
    build: Callable[[], Adapter],
    rows: Sequence[TrainRow],
    settings: TrainSettings,
    *,
    recompute: bool = False,
    offload: bool = False,
) -> Costs:
    """Measure the rates. The base is bare again afterwards, and no random stream has moved.

    Args:
        build: makes an adapter like the run's.
        rows: training documents; the first ones are read.
    """
    adapter = build()
    parameters = [p for p in adapter.parameters() if p.requires_grad]
    meter = Meter(base.device)
    with tempfile.TemporaryDirectory() as folder:
        job = _job(base, adapter, settings, Path(folder), recompute=recompute, offload=offload)
        check_fit(adapter, settings)
        optimiser = optimiser_of(job)

        def step(documents: Sequence[TrainRow], micro: int) -> float:
            own = replace(job, micro_tokens=micro)
            # The last step: whatever begins later in a run trains there.
            return _timed(base, lambda: take_step(own, optimiser, parameters, own.steps, documents))

        resident = meter.reset()
        with adapter.attached(), recomputed(base, recompute):
            apart = base.hooks.dropping or bool(settings.neftune or settings.r_drop)
            step(_cut(base, rows, WARM, WARM), WARM)
            few, many = _sizes(base, step(_cut(base, rows, TIMED, PIECE), TIMED) / TIMED)
            small, large = _cut(base, rows, few, PIECE), _cut(base, rows, many, many)
            # Adapter, gradients and optimiser; measured here, before the allocator has gaps.
            state = max(0.0, meter.reset() - resident)
            passes = [_pass(meter, step, documents) for documents in (small, large)]
            update = median(_timed(base, optimiser.step) for _ in range(3))
            held = meter.reset()
            # Products that were compiled for these sizes stay, too.
            state = max(state, held - resident)
            own = replace(job, micro_tokens=passes[1].tokens)
            reading = _timed(base, lambda: mean_loss(own, large))
            read_mib = meter.peak_mib() - held
        saved = _checkpoint_seconds(job, optimiser)
    training = Line.through(*((x.tokens, x.mib) for x in passes))
    flops = [work(base, rows).flops for rows in (small, large)]
    per_pass, per_flop = _rates(*flops, *(max(0.0, x.seconds - update) for x in passes))
    kept, moments = _kept_mib(adapter, settings), sum(2 * p.nbytes for p in parameters) / MIB
    return Costs(
        resident_mib=resident,
        # What the optimiser and the gradients hold between the steps is part of the run.
        training=replace(training, fixed_mib=training.fixed_mib + state),
        reading=Line.through((0, state), (passes[1].tokens, state + read_mib)),
        seconds_per_pass=per_pass,
        seconds_per_flop=per_flop,
        reading_seconds_per_token=reading / passes[1].tokens,
        checkpoint_seconds=saved,
        kept_mib=0.0 if offload else kept,
        update_seconds=update,
        movable_mib=0.0 if offload else moments + kept,
        recompute=recompute,
        offload=offload,
        apart=apart,
    )


class _Pass(NamedTuple):
    tokens: int
    mib: float
    """Over what was held before it."""
    seconds: float


def _pass(
    meter: Meter, step: Callable[[Sequence[TrainRow], int], float], documents: Sequence[TrainRow]
) -> _Pass:
    """A step in one pass whatever its size: the limit of the run is what is to be found.

    The first one, all of whose tokens are labelled, has the memory; for the time again, because a
    size's first pass pays for its memory. Three times, for one may be disturbed. The peak is that
    of all: freed memory has gaps.
    """
    tokens = sum(len(r.ids) for r in documents)
    held = meter.reset()
    step([_labelled(r) for r in documents], tokens)
    seconds = median(step(documents, tokens) for _ in range(3))
    return _Pass(tokens, meter.peak_mib() - held, seconds)


def _kept_mib(adapter: Adapter, settings: TrainSettings) -> float:
    """Copies of the adapter's state that a run keeps."""
    copies = 1 if settings.average is None else 2
    return copies * sum(x.nbytes for x in adapter.state_dict().values()) / MIB


def _timed(base: Base, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    _wait(base)
    return time.perf_counter() - begun


def _sizes(base: Base, seconds_per_token: float) -> tuple[int, int]:
    """Tokens of the small and of the large pass."""
    wanted = int(SECONDS / max(seconds_per_token, 1e-9))
    many = min(max(FEWEST, wanted), largest_pass(base.device))
    return max(min(FULL, many // 2), many // 3), many


def _rates(few: float, many: float, few_seconds: float, many_seconds: float) -> tuple[float, float]:
    """(seconds per pass, seconds per FLOP); a negative pass is noise, and then nothing."""
    per_flop = (many_seconds - few_seconds) / (many - few) if many > few else 0.0
    per_pass = few_seconds - few * per_flop
    if per_flop <= 0 or per_pass < 0:
        return 0.0, many_seconds / many
    return per_pass, per_flop


def _cut(base: Base, rows: Sequence[TrainRow], tokens: int, longest: int) -> list[TrainRow]:
    """Documents of at most `longest` tokens with `tokens` in all, the rows again if need be.

    Each begins with a token of its own, so that none is read as the beginning of another.
    """
    chosen: list[TrainRow] = []
    while tokens > 1:
        for row in rows:
            size = min(len(row.ids), longest, tokens)
            if size < 2:
                continue
            ids = [len(chosen) % base.vocabulary, *row.ids[1:size]]
            cut = replace(row, ids=ids, supervised=row.supervised[:size])
            chosen.append(_taught(cut))
            tokens -= size
            if tokens < 2:
                break
    # A prompt cut before its answer has no target, and a step needs one.
    return chosen if any(r.targets for r in chosen) else [_labelled(r) for r in chosen]


def _labelled(row: TrainRow) -> TrainRow:
    """Every token with loss: the head works in blocks, and a full block is its peak."""
    return _taught(replace(row, supervised=[True] * len(row.ids)))


def _taught(row: TrainRow) -> TrainRow:
    """With a lesson or a label for every target again, where there was one."""
    if row.labels is not None:
        return replace(row, labels=(0,) * sum(row.supervised))
    return row if row.lesson is None else replace(row, lesson=row.lesson.sized(row.targets))


def _checkpoint_seconds(job: Job, optimiser: torch.optim.Optimizer) -> float:
    kinds = ["best"] if job.settings.average is None else ["best", "mean"]
    kept = {kind: job.kept(job.adapter.state_dict()) for kind in kinds}
    return _timed(job.base, lambda: write_checkpoint(job, optimiser, checkpoint.State(), kept))


def _wait(base: Base) -> None:
    if base.device.type == "cuda":
        torch.cuda.synchronize()


def _job(
    base: Base,
    adapter: Adapter,
    settings: TrainSettings,
    folder: Path,
    *,
    recompute: bool,
    offload: bool,
) -> Job:
    return Job(
        base=base,
        adapter=adapter,
        settings=settings,
        steps=1,
        learning_rate=0.0,
        micro_tokens=WARM,
        seed=0,
        folder=folder,
        run_hash="probe",
        recompute=recompute,
        offload=offload,
        penalties=penalties_of(adapter, settings),
    )
