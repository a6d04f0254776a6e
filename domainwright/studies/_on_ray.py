"""Trainings of a study by Ray's workers, as many at once as the machines hold.

A worker takes one training after the other: a GPU of its own where the base is on one, else as many
processors as the study's own process has threads. Every machine needs this package and the base,
and sees the study's folder under the same path. Where a worker or its machine is lost, another
goes on from the training's last checkpoint; the adapter is the same, bit for bit.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from domainwright.core import machine
from domainwright.core.errors import CapabilityError, ConfigError, RunFailed
from domainwright.core.progress import Listener, Step
from domainwright.curate._ray import ray_of
from domainwright.curate.pipeline import PLACES
from domainwright.studies._worker import Alike, Outcome, TrialWorker, bare
from domainwright.studies.study import StudySettings
from domainwright.studies.tune import Wanted
from domainwright.train.job import Interrupted

POLL_SECONDS = 1.0
TOLD_SECONDS = 10.0
"""Between two words of one training: several take turns, and plain lines are kept for all."""
MOST_LOSSES = 5
"""Workers lost by one training without a new checkpoint: something there kills them."""


def workers_of(
    study: StudySettings, on: str, workers: int | None
) -> AbstractContextManager["RayWorkers | None"]:
    """What makes the study's trainings, as long as the block lasts; None: the study itself.

    Raises:
        ConfigError: no such place, or no such number.
        CapabilityError: Ray is not installed; in the block, that it cannot be reached.
    """
    if on not in PLACES:
        raise ConfigError(f"on is {on!r}.", f"use one of: {', '.join(PLACES)}.")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}.", "give the number of workers, from 1.")
    if on == "here":
        if workers is not None:
            raise ConfigError(
                f"workers is {workers}, and a study trains one run after the other here.",
                "add --on ray, or leave --workers out.",
            )
        return nullcontext()
    threads = torch.get_num_threads()
    processors = workers * threads if workers else max(machine.cores(), threads)
    return _begun(study, ray_of(processors), workers)


@contextmanager
def _begun(
    study: StudySettings, running: AbstractContextManager[Any], workers: int | None
) -> Iterator["RayWorkers"]:
    with running as ray:
        made = RayWorkers(study, ray, workers)
        try:
            yield made
        finally:
            made.close()


@dataclass(eq=False)
class _Worker:
    actor: Any
    going: Any
    """What Ray will say: its machine's name first, then what came of a training. None: idle."""
    label: str | None = None
    """Of the training."""
    host: str = ""
    begun: float = 0.0
    told: float = 0.0


@dataclass(kw_only=True)
class _Round:
    """Trainings that are made at the same time."""

    parts: Mapping[str, Wanted]
    until: int | None
    listen: Listener
    waiting: list[str]
    found: dict[str, Outcome] = field(default_factory=dict)
    lost: dict[str | None, tuple[str, int]] = field(default_factory=dict)
    """Training -> (newest checkpoint, workers lost since)."""

    def tell(
        self,
        label: str,
        words: str,
        step: Step | None = None,
        *,
        done: int = 0,
        over: bool = False,
    ) -> None:
        wanted = self.parts[label]
        steps = self.until or wanted.settings.steps or wanted.steps or 1
        step = step or Step("", steps if over else done, steps)
        facts = {**step.facts, "on ray": words}
        self.listen(replace(step, stage=f"train {label}", facts=facts))


class RayWorkers:
    """Workers that stay, with the base in their memory, until `close`."""

    def __init__(self, study: StudySettings, ray: Any, most: int | None) -> None:
        self._study, self._ray, self._most = study, ray, most
        self._workers: list[_Worker] = []

    def close(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers = []

    def train(
        self,
        parts: Mapping[str, Wanted],
        until: int | None,
        listen: Listener,
        stop: Callable[[], bool],
    ) -> dict[str, Outcome]:
        """Name of a training -> what came of it.

        Raises:
            CapabilityError: no machine has room for a worker, or one after the other is lost.
            Interrupted: `stop()` said so; every training has its checkpoint.
            Exception: what went wrong in a worker, apart from a failure of the training itself.
        """
        now = _Round(parts=parts, until=until, listen=listen, waiting=list(parts))
        self._hire(len(parts), Alike.of(next(iter(parts.values())).base))
        while len(now.found) < len(parts):
            self._hand_out(now)
            for worker in self._heard():
                self._settle(worker, now)
            self._look(now)
            if stop():
                self._stop()
                raise Interrupted
        return now.found

    def _hire(self, count: int, alike: Alike) -> None:
        gpu = alike.device == "cuda"
        need = {"GPU": 1, "CPU": 1} if gpu else {"CPU": alike.threads}
        places = self._most or _places(self._ray, need)
        if not places:
            words = "one GPU" if gpu else f"{alike.threads} processors"
            raise CapabilityError(
                f"No machine of Ray's has {words} for a training.",
                "add such a machine, or give --workers N where the cluster grows by itself."
                if gpu
                else f"set OMP_NUM_THREADS below {alike.threads}, or give --workers 1.",
            )
        kind = self._ray.remote(
            num_cpus=need["CPU"], num_gpus=need.get("GPU", 0), max_concurrency=2
        )(TrialWorker)
        self._new = lambda: kind.remote(self._study, alike)
        while len(self._workers) < min(places, count):
            self._begin()

    def _begin(self) -> None:
        actor = self._new()
        self._workers.append(_Worker(actor, actor.host.remote()))

    def _hand_out(self, now: _Round) -> None:
        for worker in self._workers:
            if worker.going is None and now.waiting:
                worker.label = now.waiting.pop(0)
                worker.begun = worker.told = time.monotonic()
                wanted = bare(now.parts[worker.label])
                worker.going = worker.actor.train.remote(wanted, now.until)
                now.tell(worker.label, f"begun on {worker.host}")
        if not any(worker.label for worker in self._workers):
            done = len(now.found)
            now.listen(Step("workers", done, len(now.parts), {"on ray": "waiting for a worker"}))

    def _heard(self) -> list[_Worker]:
        going = {w.going: w for w in self._workers if w.going is not None}
        ready, _ = self._ray.wait(list(going), timeout=POLL_SECONDS)
        return [going[x] for x in ready]

    def _settle(self, worker: _Worker, now: _Round) -> None:
        try:
            said = self._ray.get(worker.going)
        except self._ray.exceptions.RayTaskError as error:
            # What was raised in the worker, as it was raised.
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            self._replace(worker, now, error)
            return
        label, worker.going, worker.label = worker.label, None, None
        if label is None:
            worker.host = said
            return
        now.found[label] = said
        took = f"{time.monotonic() - worker.begun:.0f} s"
        if isinstance(said, (RunFailed, CapabilityError)):
            now.tell(label, f"failed after {took}: {said.cause}", over=True)
        else:
            now.tell(label, f"finished in {took}", over=True)

    def _replace(self, worker: _Worker, now: _Round, error: Exception) -> None:
        """Another worker in the place of one that is lost."""
        label, mark = worker.label, ""
        if label is not None:
            places = (now.parts[label].folder / "checkpoints").glob("step-*")
            mark = max((p.name for p in places), default="")
        done = int(mark.rpartition("-")[2] or 0)
        before, count = now.lost.get(label, ("", 0))
        count = count + 1 if before == mark else 1
        now.lost[label] = mark, count
        if count > MOST_LOSSES:
            what = f"training {label}" if label else "being begun"
            raise CapabilityError(
                f"{count} workers were lost one after the other while {what} "
                f"({str(error).splitlines()[0]}).",
                "where memory is short lower --workers or budget.memory_gb; then add --resume.",
            )
        self._ray.kill(worker.actor)
        self._workers.remove(worker)
        if label is not None:
            now.waiting.insert(0, label)
            now.tell(label, "its worker was lost; goes on from its last checkpoint", done=done)
        self._begin()

    def _look(self, now: _Round) -> None:
        """Tell how far the trainings are that nothing was said of for a while."""
        at = time.monotonic()
        due = {
            w.actor.step.remote(): w
            for w in self._workers
            if w.label is not None and at - w.told > TOLD_SECONDS
        }
        ready: list[Any] = []
        if due:
            ready, _ = self._ray.wait(list(due), num_returns=len(due), timeout=POLL_SECONDS)
        for said in ready:
            worker = due[said]
            worker.told = at
            # Who is lost is settled where its training is.
            with suppress(self._ray.exceptions.RayError):
                step = self._ray.get(said)
                if step is not None and worker.label is not None:
                    now.tell(worker.label, worker.host, step)

    def _stop(self) -> None:
        """Every training ends after its step, with a checkpoint."""
        busy = [w for w in self._workers if w.label is not None]
        for worker in busy:
            worker.actor.stop.remote()
        if busy:
            self._ray.wait([w.going for w in busy], num_returns=len(busy))


def _places(ray: Any, need: Mapping[str, int]) -> int:
    """Workers that the machines of the cluster hold at once."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(has.get(k, 0) // n) for k, n in need.items()) for has in machines)
