"""The folder a study or a run is written to: taken only when it is empty or one of ours."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import MANIFEST
from domainwright.core.config import as_mapping
from domainwright.core.errors import ConfigError
from domainwright.studies.study import MARK, StudySettings, plain, read_study

STUDY_FILE = "study.yaml"
OF_STUDY = (
    *("trials", "search", "lessons", "dataset", "plan.json", "verdict.json", "report.html"),
    *("refine", "champion.json", "tracking", "retriever", "gate", "folds", MANIFEST),
)
OF_RUN = (
    "adapter",
    "checkpoints",
    "chosen.json",
    "dataset",
    "lessons",
    "metrics.jsonl",
    "planned.json",
    "training.json",
    "set_aside.jsonl",
    "refine",
    "champion.json",
    "tracking",
    "retriever",
)
SAME_RESULT = (
    "train.micro_tokens",
    "train.gradient_checkpointing",
    "train.offload",
    "train.checkpoint_every",
    "budget.memory_gb",
    "track",
)
"""Settings that may differ on --resume: they change memory, disk and who is told, not what is
measured."""


def claim(folder: Path, kinds: tuple[str, ...]) -> None:
    """Make `folder`, or refuse one that holds something else.

    Args:
        kinds: names that will be written there, `OF_STUDY` or `OF_RUN`.

    Raises:
        ConfigError: a file, a folder out of reach, or one that Domainwright did not write.
    """
    elsewhere = "give another folder with -o."
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, not a folder.", elsewhere)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}.", elsewhere) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder} cannot be written to.", elsewhere)
    found = sorted(path.name for path in folder.iterdir() if path.name in (*kinds, STUDY_FILE))
    if found and not ours(folder):
        raise ConfigError(
            f"{folder} was not made by Domainwright and holds {', '.join(found)}, which would be "
            "overwritten.",
            "give an empty or new folder with -o.",
        )


def ours(folder: Path) -> bool:
    """True when a study or a run was begun in `folder`."""
    file = folder / STUDY_FILE
    return file.is_file() and file.read_bytes().startswith(MARK.encode())


def open_study(study: StudySettings, folder: Path, *, resume: bool, fresh: bool) -> None:
    """Settle what happens to what the folder holds. Call it while holding the folder's lock.

    Raises:
        ConfigError: it holds a study and neither flag was given, another study than the one
            to resume, or, with `fresh`, files that are no study's.
    """
    if resume and fresh:
        raise ConfigError(
            "--resume goes on with a study and --fresh deletes it.", "give one of the two."
        )
    if fresh:
        _wipe(folder)
    elif ours(folder):
        if not resume:
            state = "a finished study" if (folder / MANIFEST).exists() else "an unfinished study"
            raise ConfigError(
                f"{folder} holds {state}.",
                "add --resume to go on with it, --fresh to start it again, or -o for another "
                "folder.",
            )
        _refuse_changes(folder, study)


def _wipe(folder: Path) -> None:
    """Delete a study. Files beside it that no study writes are kept."""
    strange = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    if strange and not ours(folder):
        raise ConfigError(
            f"{folder} is no study folder: it holds {', '.join(strange[:3])}"
            f"{' …' if len(strange) > 3 else ''} and no {STUDY_FILE} of a study.",
            "check the path, or give an empty or new folder with -o.",
        )
    # The study file last: a folder that lost it in a half-done wipe would not be known as ours.
    for name in (*OF_STUDY, STUDY_FILE):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _refuse_changes(folder: Path, study: StudySettings) -> None:
    before = _flat(plain(as_mapping(read_study(folder / STUDY_FILE))))
    now = _flat(plain(as_mapping(study)))
    changed = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key) and key not in SAME_RESULT
    )
    if changed:
        key = changed[0]
        more = f" (and {len(changed) - 1} more: {', '.join(changed[1:])})" if changed[1:] else ""
        raise ConfigError(
            f"The study in {folder} was begun with {key} = {before.get(key)!r}, and it is "
            f"{now.get(key)!r} now{more}.",
            "resume with the same settings, start again with --fresh, or give another folder "
            "with -o.",
        )


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found
