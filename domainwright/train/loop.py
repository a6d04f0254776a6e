"""The one training loop, for every method, for one candidate and for many over one base.

Order and dropout follow from (seed, step) alone, so a resumed run is bit-identical. A step
of many candidates is a list of moves: one candidate alone, or several in one batch
(`train.together`). What a candidate is in, its gradients, checks, checkpoints and failure,
is its own (`train.run`).
"""

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from domainwright.core.errors import CapabilityError, RunFailed
from domainwright.core.progress import Listener, Step, quiet
from domainwright.methods._adapter import Adapter
from domainwright.train.job import Interrupted, Job, Trained
from domainwright.train.loss import losses_of_rows
from domainwright.train.memory import Meter
from domainwright.train.passes import Packing
from domainwright.train.recompute import recomputed
from domainwright.train.run import Failure, Run
from domainwright.train.step import Watched, general_rows, take_step, within_memory

Taken = tuple[float, float, int]
"""(mean loss, gradient norm before clipping, tokens read) of one candidate's step."""


def train(
    job: Job,
    *,
    resume: bool = False,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Run the loop; afterwards the adapter holds the best state, and the base is bare again.

    Raises:
        RunFailed: diverged, a zero gradient, nothing changed, nothing learned, or every state
            forgets more than the limit.
        Interrupted: `stop()` said so; the checkpoint is written.
    """
    (run,) = train_runs([job], InTurn, resume=resume, listen=listen, stop=stop)
    if run.trained is None:
        raise run.failure or RuntimeError("the loop ended with a run that still goes on")
    return run.trained


@dataclass(frozen=True, slots=True)
class Paused:
    """Where a run stands."""

    losses: list[tuple[str, float, float]]
    """(row, summed loss in nats, supervised tokens) of every development row, both times its
    weight."""
    start: dict[str, float]
    """Watched losses of the untouched base."""


def advance(
    job: Job,
    until: int,
    *,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> Paused:
    """Go on with the run, or begin it, up to step `until`, and leave a checkpoint there.

    `train` with `resume` takes it up again, with the numbers of a run that never paused: the
    schedule is that of all the job's steps.

    Raises:
        RunFailed, CapabilityError: diverged, a zero gradient, or out of memory.
        Interrupted: `stop()` said so; the checkpoint is written.
    """
    (run,) = train_runs([job], InTurn, resume=True, listen=listen, stop=stop, until=until)
    if run.failure is not None:
        raise run.failure
    with job.adapter.attached():
        losses = losses_of_rows(job.base, job.development, run.job.micro_tokens)
    start = {k: v for k, v in run.state.history[0].items() if k.endswith("_loss")}
    rows = zip(job.development, losses, strict=True)
    found = [(row.id, row.weight * loss, row.weight * row.targets) for row, loss in rows]
    return Paused(found, start)


class Stage:
    """Which adapters hang on the base; it is bare again when the block is left."""

    def __init__(self, job: Job) -> None:
        self.base, self._recompute = job.base, job.recompute
        self._held = ExitStack()
        self._on: list[Adapter] = []

    def put(self, *adapters: Adapter) -> None:
        """These and no others; nothing is done where they hang already."""
        if self._on == list(adapters):
            return
        self.clear()
        for adapter in adapters:
            self._held.enter_context(adapter.attached())
        self._held.enter_context(recomputed(self.base, self._recompute))
        self._on = list(adapters)

    def clear(self) -> None:
        self._on = []
        self._held.close()

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *error: object) -> None:
        # However the run ends: what is measured next must not have a failed adapter on it.
        self.clear()


class InTurn:
    """How a step is executed: each candidate on its own."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def moves(self, now: list[Run], packing: Packing, *, all_here: bool) -> list[list[Run]]:
        """Who moves together.

        Args:
            now: candidates whose next step this is.
            all_here: whether these are all that still go on.
        """
        return [[run] for run in now]

    def take(self, move: list[Run], packing: Packing) -> list[Taken | Failure]:
        """One step of each."""
        return [self.alone(run, packing) for run in move]

    def alone(self, run: Run, packing: Packing) -> Taken | Failure:
        self.stage.put(run.job.adapter)
        step = run.state.step
        try:
            run.job, taken = within_memory(
                run.job,
                [*packing.rows, *general_rows(run.job, step)],
                lambda job: take_step(job, run.optimiser, run.parameters, step, packing, run.told),
            )
        except CapabilityError as error:
            return error
        return taken


def train_runs(
    jobs: Sequence[Job],
    execution: Callable[[Stage], InTurn],
    *,
    resume: bool,
    listen: Listener,
    stop: Callable[[], bool],
    until: int | None = None,
) -> list[Run]:
    """Every job as a run that has ended, trained or failed.

    Args:
        until: pause there, with a checkpoint; None: no pause.

    Raises:
        Interrupted: `stop()` said so; every candidate's checkpoint is written.
        RunFailed: the base's own losses are no numbers.
    """
    runs = [Run(job) for job in jobs]
    with Stage(jobs[0]) as stage:
        meter = Meter(stage.base.device)
        meter.reset()
        watched = Watched(jobs[0])
        _begin(runs, watched, resume)
        how, lap, order = execution(stage), _laps(), jobs[0].order
        while going := _not_over(runs, stage, watched, until):
            first = min(going, key=lambda run: run.state.step)
            now = [run for run in going if run.state.step == first.state.step]
            packing = Packing(stage.base, order.step(first.state.step))
            for move in how.moves(now, packing, all_here=len(now) == len(going)):
                before = [run.job.micro_tokens for run in move]
                found = how.take(move, packing)
                share = lap() / len(move)
                for run, taken, micro in zip(move, found, before, strict=True):
                    run.unpaid += share
                    told = _book(run, taken, micro, stage, watched, meter)
                    if told:
                        name = f" {run.job.folder.name}" if len(runs) > 1 else ""
                        listen(replace(told, stage=told.stage + name))
                    run.unpaid += lap()
                _save(move, going, stopping=stop())
        for run in runs:
            if run.going and run.saved != run.state.step:  # paused between two checkpoints
                run.save()
    return runs


def _laps() -> Callable[[], float]:
    """Seconds since the last call."""
    last = time.perf_counter()

    def lap() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return last - before

    return lap


def _begin(runs: list[Run], watched: Watched, resume: bool) -> None:
    """Every run at its newest checkpoint, or at its start. The base is bare."""
    fresh = [run for run in runs if not (resume and run.resume())]
    if fresh:
        # Before its first step every candidate is the base: one reading is that of all.
        after, known = fresh[0].job, dict(fresh[0].job.start or {})
        if not known:
            # New words are read as they begin, for the rows hold their tokens.
            with after.adapter.speaking():
                after, known = within_memory(
                    after, watched.rows, lambda job: watched.losses(job, 0)
                )
        for run in fresh:
            run.start(known, after.micro_tokens)
    for run in runs:
        run.write_metrics()


def _not_over(runs: list[Run], stage: Stage, watched: Watched, until: int | None) -> list[Run]:
    """Runs with a step left before the pause; those that just ended are judged."""
    if until is not None:
        return [run for run in runs if run.going and not run.over and run.state.step < until]
    for run in runs:
        if run.going and run.over:
            stage.put(run.job.adapter)
            try:
                run.trained = run.finish(watched)
            except RunFailed as error:
                _fail(run, error)
            run.best, run.beyond, run.mean, run.begun = {}, {}, {}, {}
    return [run for run in runs if run.going]


def _book(
    run: Run,
    taken: Taken | Failure,
    before: int,
    stage: Stage,
    watched: Watched,
    meter: Meter,
) -> Step | None:
    """The step in the run's own books; None where it ended the run."""
    try:
        if isinstance(taken, (RunFailed, CapabilityError)):
            raise taken
        return run.record(
            taken,
            watched,
            lambda: stage.put(run.job.adapter),
            before=before,
            peak_mib=meter.peak_mib(),
        )
    except (RunFailed, CapabilityError) as error:
        _fail(run, error)
        return None


def _fail(run: Run, error: Failure) -> None:
    """This candidate is out; the others never notice."""
    run.failure = error
    for parameter in run.parameters:
        parameter.grad = None
    run.optimiser.state.clear()
    # The error is kept until all are done, and its frames hold activations.
    traceback.clear_frames(error.__traceback__)


def _save(move: list[Run], going: list[Run], *, stopping: bool) -> None:
    """Checkpoints that are due after a move; on a stop, everyone's.

    Raises:
        Interrupted: on a stop.
    """
    for run in going if stopping else move:
        if run.going and (stopping or run.due):
            run.save()
    if stopping:
        raise Interrupted
