"""Tasks of lm-eval on which a study measures forgetting, each asked at most once a model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from domainwright.core.artifacts import sha256_json, write_folder
from domainwright.core.errors import DataError
from domainwright.core.progress import Listener
from domainwright.evaluate.lm_eval_tasks import Tasks, load_tasks
from domainwright.evaluate.retained import AskedTask
from domainwright.models.base import Base
from domainwright.studies._scorecards import read_items
from domainwright.studies._task_settings import TaskSettings
from domainwright.studies.study import StudySettings

PART = "retention_tasks"


@dataclass(frozen=True)
class RetentionTasks:
    """The study's, with their data read."""

    loaded: tuple[Tasks, ...]
    hash: str
    tokens: int
    """Read by one model, what questions share counted once."""
    limits: Mapping[str, float]
    """Task -> most that may be lost on it, of those that have a limit. A group's holds for each of
    its tasks."""

    def asked(
        self,
        base: Base,
        adapter_hash: str,
        folders: Sequence[Path],
        listen: Listener,
        stage: str,
    ) -> tuple[AskedTask, ...]:
        """The tasks on the base with whatever hangs on it.

        Args:
            folders: where it may have been kept; it is written into the last.

        Raises:
            DataError: a task has no metric of single items.
        """
        if not self.loaded:
            return ()
        parents = {"base": base.sha256, "tasks": self.hash, "adapter": adapter_hash}
        for folder in folders:
            if found := _read(folder / PART, parents):
                return self._limited(found)
        results = [
            result
            for tasks in self.loaded
            for result in tasks.ask(base, errors=False, listen=listen, stage=stage).results
            if result.items
        ]
        asked = []
        for result in results:
            metric = next((m for m in result.metrics if m.name == result.deciding), None)
            if metric is None:
                raise DataError(
                    f"evaluate.retention_tasks: {result.name} has no metric of single items, so "
                    "its changes cannot be paired.",
                    "choose a task with acc, exact_match or bits_per_byte.",
                )
            up = metric.higher_is_better is not False
            asked.append(AskedTask(result.name, metric.name, up, result.items))
        _write(folders[-1] / PART, parents, asked)
        return self._limited(asked)

    def _limited(self, asked: Sequence[AskedTask]) -> tuple[AskedTask, ...]:
        """With today's limits: what was asked before another limit was set, was asked alike."""
        return tuple(replace(task, max_drop=self.limits.get(task.name)) for task in asked)


def retention_tasks(study: StudySettings, base: Base, listen: Listener) -> RetentionTasks:
    """Read the data of the study's tasks.

    Raises:
        CapabilityError, DataError, UnknownName: see `evaluate.lm_eval_tasks.load_tasks`.
    """
    loaded, limits = [], dict[str, float]()
    for entry in study.evaluate.retention_tasks:
        wanted = TaskSettings(task=entry) if isinstance(entry, str) else entry
        tasks = load_tasks(
            [wanted.task],
            include=wanted.include,
            shots=wanted.shots,
            limit=wanted.limit,
            listen=listen,
        )
        loaded.append(tasks)
        if wanted.max_drop is not None:
            limits |= dict.fromkeys(tasks.names, wanted.max_drop)
    names = [name for tasks in loaded for name in tasks.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"evaluate.retention_tasks names a task twice: {', '.join(twice)}.",
            "name it once; a group or tag may hold it too.",
        )
    requests = [tasks.requests() for tasks in loaded]
    texts = {text for own in requests for arguments in own.values() for text in arguments}
    tokens = sum(len(base.template.tokens(text)) for text in texts)
    return RetentionTasks(tuple(loaded), sha256_json([t.hash() for t in loaded]), tokens, limits)


def _write(folder: Path, parents: dict[str, str], asked: Sequence[AskedTask]) -> None:
    def fill(out: Path) -> None:
        for number, task in enumerate(asked):
            lines = "".join(json.dumps(asdict(x), ensure_ascii=False) + "\n" for x in task.items)
            (out / f"{number}.jsonl").write_text(lines, encoding="utf-8")
        named = [[task.name, task.metric, task.higher_is_better] for task in asked]
        (out / "tasks.json").write_text(json.dumps(named) + "\n", encoding="utf-8")

    write_folder(folder, PART, fill, parents=parents)


def _read(folder: Path, parents: dict[str, str]) -> tuple[AskedTask, ...]:
    if read_items(folder, parents, "0.jsonl") is None:
        return ()
    named = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    return tuple(
        AskedTask(name, metric, up, tuple(read_items(folder, parents, f"{n}.jsonl") or ()))
        for n, (name, metric, up) in enumerate(named)
    )
