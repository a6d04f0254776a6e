"""The rows of a study that is about a task of lm-eval."""

from collections.abc import Sequence
from dataclasses import dataclass

from domainwright.core.progress import Listener
from domainwright.core.records import Chat, Row
from domainwright.curate.read import ReadResult
from domainwright.evaluate.lm_eval_exam import TaskExam
from domainwright.evaluate.lm_eval_rows import WRITTEN, literal, task_rows
from domainwright.evaluate.lm_eval_tasks import load_tasks
from domainwright.studies.study import StudySettings

SHOWN = 5
"""Tasks of a group that the verdict names in words; `data.lm_eval` has them all."""


@dataclass(frozen=True, slots=True)
class FromTask:
    """What the task gives to the study."""

    parts: tuple[tuple[str, dict, ReadResult], ...]
    """(role, entry as of a file, what was read) of each single task."""
    exam: TaskExam

    def fitted(self, rows: Sequence[Row]) -> list[Row]:
        """Rows of the user's own files in the form of the task's: conversations as plain text."""
        if self.exam.kind != WRITTEN:
            return list(rows)
        return [literal(row) if type(row) is Chat and not row.literal else row for row in rows]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the verdict says of it."""
        versions = self.exam.versions
        first = [f"{name} (version {x})" for name, x in list(versions.items())[:SHOWN]]
        named = ", ".join(first) + (f" and {len(versions) - SHOWN} more" * (len(versions) > SHOWN))
        return (f"Asked and marked are lm-eval's own: {named}, lm-eval {self.exam.lm_eval}.",)


def from_task(study: StudySettings, listen: Listener) -> FromTask | None:
    """Read the task of `data.task`; None: the study has none.

    Raises:
        CapabilityError, DataError, UnknownName: see `evaluate.lm_eval_tasks.load_tasks`.
        ConfigError: a task of which no rows can be made.
    """
    data = study.data
    if data.task is None:
        return None
    tasks = load_tasks([data.task], include=data.include, shots=0, listen=listen)
    found = task_rows(tasks, train=not data.train, listen=listen)
    parts = [
        (role, {"task": name}, read)
        for role, reads in (("train", found.train), ("test", found.test))
        for name, read in zip(tasks.names, reads, strict=False)
    ]
    return FromTask(tuple(parts), TaskExam(tasks, found.documents))
