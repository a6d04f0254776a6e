"""A model or a finished run on tasks of lm-evaluation-harness, without a study."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from domainwright.core.errors import ConfigError
from domainwright.core.progress import Listener, quiet
from domainwright.evaluate._lm_eval_engine import Engine
from domainwright.evaluate._lm_eval_results import SHOWN, TaskResult
from domainwright.evaluate.lm_eval_tasks import load_tasks
from domainwright.models.base import Base
from domainwright.studies._run import Run
from domainwright.studies._task_settings import TaskSettings
from domainwright.studies.api import run_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """One model on every task asked, groups of tasks included."""

    model: str
    strategy: str
    """"base", or the run's; of it only the adapter acts: a task brings its own prompts."""
    results: tuple[TaskResult, ...]
    notes: tuple[str, ...]


def evaluate_tasks(
    model: str | Path,
    tasks: str | Sequence[str],
    *,
    include: str | Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    listen: Listener = quiet,
) -> TaskScores:
    """lm-eval's metrics of `model` (a base or a run folder), its answers given by our engine.

    Args:
        tasks: names of tasks, groups or tags, or paths of their YAML files.
        include: a folder with YAML tasks of your own. Code in it is run.
        shots: examples shown in each prompt; None: as each task says.
        limit: documents asked of each task; None: all.
        chat: write prompts with the base's chat template.

    Raises:
        CapabilityError: lm-eval or a task's data is not on this machine.
        UnknownName: there is no task of that name.
        ConfigError, DataError: a setting or a file is wrong; see `evaluate.lm_eval_tasks`.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if not names:
        raise ConfigError("No task is named.", "name one, such as arc_easy.")
    for name in names:
        TaskSettings(task=name, shots=shots, limit=limit)  # says what cannot be
    # Before the model: a name that is wrong should not cost its loading.
    ready = load_tasks(names, include=include, shots=shots, limit=limit, listen=listen)
    run = run_of(model)
    gate = _Gated(run)
    # A gate attaches the adapter itself, for the prompts that it lets through.
    with run.adapter.attached() if run.adapter and run.gate is None else nullcontext():
        asked = ready.ask(
            run.base,
            chat=chat,
            listen=listen,
            stage="evaluate",
            engine=Engine if run.gate is None else gate.engine,
        )
    notes = asked.notes + gate.notes
    if run.prompter is not None:
        notes += (f"of {run.strategy} only the weights are measured: a task brings its own prompt",)
    return TaskScores(model=str(model), strategy=run.strategy, results=asked.results, notes=notes)


class _Gated:
    """Who answers what, of a run whose gate lets the adapter answer some prompts."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.passed: dict[str, bool] = {}
        """What the gate said of the end of each prompt."""

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.passed:
            return ()
        through = sum(self.passed.values())
        return (f"the gate let the adapter answer {through} of {len(self.passed)} prompts",)

    def engine(self, base: Base, listen: Listener, stage: str) -> Engine:
        return _GatedEngine(base, listen, stage, self)

    def passes(self, prompt: str) -> bool:
        # A study judges the items of its tasks by the same part of them.
        text = prompt[-SHOWN:]
        if text not in self.passed:
            assert self.run.gate is not None
            self.passed[text] = self.run.gate.passes(text)
        return self.passed[text]


class _GatedEngine(Engine):
    def __init__(self, base: Base, listen: Listener, stage: str, gate: _Gated) -> None:
        super().__init__(base, listen, stage)
        self.gate = gate

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        return self._parted(super().loglikelihood, requests)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        return self._parted(super().loglikelihood_rolling, requests)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return self._parted(super().generate_until, requests)

    def _parted(self, ask: Callable[[Sequence[Any]], list[T]], requests: Sequence[Any]) -> list[T]:
        """The adapter's answers where the gate lets a prompt through, the base's elsewhere."""
        passed = [self.gate.passes(str(request.args[0])) for request in requests]
        return self.gate.run.parted(passed, lambda places: ask([requests[n] for n in places]))
