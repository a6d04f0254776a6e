"""How a task of lm-evaluation-harness is asked, as a study file says it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from domainwright.core.errors import ConfigError


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

    def __post_init__(self) -> None:
        for name, least in (("shots", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(
                    f"{self.task} is asked with a {name} of {value}.",
                    f"give a whole number from {least}.",
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
