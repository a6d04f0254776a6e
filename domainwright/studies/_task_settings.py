"""How a task of lm-evaluation-harness is asked, as a study file says it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from domainwright.core.errors import ConfigError

if TYPE_CHECKING:
    from domainwright.studies.study import StudySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """A task of lm-evaluation-harness."""

    task: str
    """Its name, a group's, a tag's, or the path of its YAML file."""
    include: str | None = None
    """Folder with YAML tasks of your own, relative to the study file. Code in it is run."""
    shots: int | None = None
    """Examples shown in each prompt. None: as the task says."""
    limit: int | None = 100
    """Items asked of each task, from the top. None: all."""
    max_drop: float | None = None
    """Most that a recommended strategy may lose on it, in the metric's own points: 0.02 is two
    items in a hundred. None: no limit."""

    def __post_init__(self) -> None:
        for name, least in (("shots", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(
                    f"{self.task} is asked with a {name} of {value}.",
                    f"give a whole number from {least}.",
                )
        if self.max_drop is not None and not self.max_drop >= 0:
            raise ConfigError(
                f"{self.task} has a max_drop of {self.max_drop}.",
                "give points of its metric from 0, such as 0.02.",
            )


def check_task(study: "StudySettings") -> None:
    """Refuse what a study about a task of lm-eval cannot have.

    Raises:
        ConfigError: a setting that says what the task says, or needs rows that it has not.
    """
    data = study.data
    if data.task is None:
        return
    distil = study.train.distil
    refused = (
        ("data.test", data.test, "the task says what is asked"),
        ("data.split_by_date", data.split_by_date, "the task says what is asked"),
        ("data.augment", data.augment, "made rows have another form than the task's prompts"),
        (
            "evaluate.new_tokens",
            study.evaluate.new_tokens is not None,
            "the task says how long an answer may be",
        ),
        ("train.head", study.train.head, "lm-eval marks likelihoods, which a head does not give"),
        (
            "train.distil.learn: sequences",
            distil is not None and distil.learn == "sequences",
            "a teacher's replies have another form than the task's targets",
        ),
    )
    for name, there, why in refused:
        if there:
            raise ConfigError(
                f"data.task is {data.task}, and {name} is set: {why}.", f"leave {name} out."
            )


def tasks_located(
    tasks: Sequence[str | TaskSettings], folder: Path
) -> tuple[str | TaskSettings, ...]:
    """The tasks with their folders made absolute from the study file's."""
    return tuple(
        replace(own, include=str(folder / Path(own.include).expanduser()))
        if isinstance(own, TaskSettings) and own.include
        else own
        for own in tasks
    )
