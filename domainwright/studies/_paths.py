"""Paths in a study file, which are relative to it, made absolute."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domainwright.core.errors import ConfigError

if TYPE_CHECKING:
    from domainwright.studies.study import DataSettings


def data_located(data: "DataSettings", folder: Path) -> "DataSettings":
    """The settings with all their paths made absolute from the study file's folder."""
    select = data.select
    if select and select.target:
        select = replace(select, target=str(folder / Path(select.target).expanduser()))
    return replace(
        data,
        train=located(data.train, folder),
        test=located(data.test, folder),
        development=located(data.development, folder),
        documents=located(data.documents, folder),
        task=str(folder / data.task) if data.task and (folder / data.task).is_file() else data.task,
        include=str(folder / Path(data.include).expanduser()) if data.include else None,
        select=select,
        augment=tuple(
            replace(way, synonyms=str(folder / Path(way.synonyms).expanduser()))
            if way.synonyms
            else way
            for way in data.augment
        ),
    )


def past_located(method: Any, folder: Path) -> Any:
    """A method's settings with the folders of earlier runs made absolute, where it names some."""
    past = method.get("past") if isinstance(method, Mapping) else None
    if not past:
        return method
    runs = [past] if isinstance(past, str) else past
    return {**method, "past": [str(folder / Path(run).expanduser()) for run in runs]}


def located(entries: tuple[str | dict, ...], folder: Path) -> tuple[str | dict, ...]:
    """The entries with their paths made absolute from the study file's folder."""

    def absolute(path: object) -> str:
        return str(folder / Path(str(path)).expanduser())

    for entry in entries:
        if not isinstance(entry, str) and "path" not in entry:
            raise ConfigError(
                f"data has an entry without a path: {entry!r}.",
                "write {path: FILE, format: NAME}.",
            )
    return tuple(
        absolute(e) if isinstance(e, str) else {**e, "path": absolute(e["path"])} for e in entries
    )
