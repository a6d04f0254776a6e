"""Trainings of a study in a process of their own, one after the other, on a base loaded once."""

from dataclasses import dataclass, replace
from functools import cached_property
from socket import gethostname
from typing import Literal

import torch

from domainwright.core.errors import CapabilityError, DataError, RunFailed
from domainwright.core.lock import LOCK, turn
from domainwright.core.progress import Step
from domainwright.models.base import Base
from domainwright.studies._base import base_of
from domainwright.studies.study import StudySettings
from domainwright.studies.tune import Wanted, advance, tune
from domainwright.train.job import Interrupted
from domainwright.train.loop import Paused

Stopped = Literal["stopped"]
Outcome = Paused | RunFailed | CapabilityError | None
"""Where a run paused, or why it failed; None: it is trained to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """What a worker must have in common with the study's own process for the same bits."""

    device: str
    dtype: str
    threads: int
    """Processor threads of a sum: another number adds in another order."""
    sha256: str
    """Of the base."""

    @classmethod
    def of(cls, base: Base) -> "Alike":
        return cls(
            device=base.device.type,
            dtype=str(base.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            sha256=base.sha256,
        )


def bare(wanted: Wanted) -> Wanted:
    """As it travels: without the base, with paths that do not depend on where one stands."""
    return replace(
        wanted,
        base=None,  # type: ignore[arg-type]
        folder=wanted.folder.absolute(),
        lessons=wanted.lessons and wanted.lessons.absolute(),
        begin=wanted.begin and wanted.begin.absolute(),
    )


class TrialWorker:
    """Trains what it is given into the study's folder, from where an earlier worker was lost."""

    def __init__(self, study: StudySettings, alike: Alike) -> None:
        changes = {"device": alike.device, "dtype": alike.dtype}
        self._study = replace(study, **changes)  # type: ignore[arg-type]
        self._alike = alike
        self._step: Step | None = None
        self._stop = False

    @cached_property
    def _base(self) -> Base:
        base = base_of(self._study)
        if base.sha256 != self._alike.sha256:
            raise DataError(
                f"The base {self._study.base!r} on {gethostname()} has other weights than the "
                "study's.",
                "put the same base on every machine.",
            )
        return base

    def host(self) -> str:
        """Name of the machine, as soon as the worker is there."""
        return gethostname()

    def train(self, wanted: Wanted, until: int | None) -> Outcome | Stopped:
        """The same training that the study would make itself.

        Args:
            wanted: `bare`.
            until: step to pause at; None: to the end.
        """
        # Here: a thread's number is its own, and Ray calls from several.
        torch.set_num_threads(self._alike.threads)
        self._step = None
        wanted = replace(wanted, base=self._base)
        with turn(wanted.folder / LOCK):
            pass  # whoever was thought lost is gone now
        try:
            if until is not None:
                return advance(wanted, until, listen=self._listen, stop=self._stopping)
            tune(wanted, resume=True, listen=self._listen, stop=self._stopping)
        except Interrupted:
            return "stopped"
        except (RunFailed, CapabilityError) as error:
            return error
        return None

    def step(self) -> Step | None:
        """How far the training is."""
        return self._step

    def stop(self) -> None:
        """End the training after its step, with a checkpoint."""
        self._stop = True

    def _listen(self, step: Step) -> None:
        self._step = step

    def _stopping(self) -> bool:
        return self._stop
