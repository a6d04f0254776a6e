"""What stood behind the placeholders, in a file of its own, never inside a dataset."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from domainwright.core.artifacts import aside
from domainwright.core.errors import ConfigError


def check_secrets_file(file: Path, dataset: Path) -> None:
    """Raise a ConfigError when `file` lies in the dataset, exists, or has no folder."""
    if dataset.resolve() in (file.resolve(), *file.resolve().parents):
        raise ConfigError(
            f"{file} lies inside the dataset, which is meant to be shared.",
            "give a path outside of it with --secrets.",
        )
    if file.exists():
        raise ConfigError(f"{file} exists already.", "give a new file with --secrets.")
    if not file.parent.is_dir():
        raise ConfigError(f"There is no folder {file.parent}.", "make it, or give another path.")


def write_secrets(file: Path, secrets: Mapping[str, Mapping[str, str]]) -> None:
    """One line per row, {"id": …, "placeholders": {"[EMAIL_1]": …}}, for the owner's eyes only."""
    temporary = aside(file, "tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as out:
        for row, placeholders in secrets.items():
            out.write(json.dumps({"id": row, "placeholders": placeholders}, ensure_ascii=False))
            out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)
