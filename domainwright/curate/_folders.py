"""A folder as data: the files below it that can be read, and a reason for every other one."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from domainwright.core.artifacts import MANIFEST, read_manifest
from domainwright.core.errors import DataError
from domainwright.core.records import SetAside
from domainwright.curate import files

CURATED = "curated"
"""Kind of the artifact that `dw curate` writes."""
_OURS = "# Written by Domainwright"
"""Begins the study file in every folder of a study or a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a folder holds."""

    files: tuple[tuple[Path, str], ...]
    """(path, path inside the folder), sorted."""
    left_out: tuple[SetAside, ...]
    """Files that cannot be data, each once."""

    @property
    def all(self) -> int:
        return len(self.files) + len(self.left_out)


def found_in(folder: Path) -> Found:
    """The files below `folder`. Hidden ones and folders that Domainwright wrote are passed over.

    A dataset of `dw curate` stands for its tables of kept rows.

    Raises:
        DataError: nothing below it can be read, or Domainwright wrote it for something else.
    """
    if _ours(folder):
        return _curated(folder)
    kept, left_out = list[tuple[Path, str]](), list[SetAside]()
    # Sorted: the order of a folder differs between file systems.
    for path, reason, detail in sorted(_below(folder), key=lambda entry: entry[0].parts):
        if reason:
            left_out.append(
                SetAside(file=_shown(path), line=1, id=None, reason=reason, detail=detail)
            )
        else:
            kept.append((path, path.relative_to(folder).as_posix()))
    found = Found(files=tuple(kept), left_out=tuple(left_out))
    if not kept:
        raise nothing_in(folder, found.all, found.left_out)
    return found


def nothing_in(folder: Path, seen: int, left_out: tuple[SetAside, ...]) -> DataError:
    """The error for a folder of `seen` files none of which can be read."""
    first = f"; {left_out[0].file}: {left_out[0].detail}" if left_out else ""
    return DataError(
        f"The folder {folder} holds no file that can be read ({seen} files seen{first}).",
        f"put files there as {files.KNOWN}.",
    )


def _below(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """(path, reason, detail) of every file; an empty reason where it can be read."""
    faults = list[OSError]()
    for place, folders, names in os.walk(folder, onerror=faults.append):
        here = Path(place)
        for name in sorted(folders):
            # os.walk goes down only into what is left in the list.
            if name.startswith(".") or _ours(here / name):
                folders.remove(name)
            elif (here / name).is_symlink():
                folders.remove(name)
                yield here / name, "linked_folder", "a link to a folder is not followed"
        for name in names:
            if not name.startswith("."):
                yield here / name, *_flaw(here / name)
    for error in faults:
        detail = f"the folder cannot be opened ({error.strerror})"
        yield Path(error.filename), "unreadable_file", detail


def _shown(path: Path) -> str:
    """The path, with a sign for each byte of a name that is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _flaw(path: Path) -> tuple[str, str]:
    if _shown(path) != str(path):
        return "unreadable_file", "its name is no UTF-8"
    if not path.is_file():
        return "unreadable_file", "no regular file, or a link to nothing"
    if not os.access(path, os.R_OK):
        return "unreadable_file", "reading it is not allowed"
    if not files.readable(path):
        ending = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
        told = f"{path.name} ends in {ending or 'nothing'!r}, which is no known data format"
        return "unknown_kind", told
    return "", ""


def _curated(folder: Path) -> Found:
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else {"kind": "run"}
    tables = sorted(name for name in manifest.get("files", ()) if name.endswith(".parquet"))
    if manifest["kind"] != CURATED or not tables:
        raise DataError(
            f"{folder} was written by Domainwright ({manifest['kind']}) and is no data.",
            "give the files it was made from, or the folder of a dataset that dw curate made.",
        )
    return Found(files=tuple((folder / name, name) for name in tables), left_out=())


def _ours(folder: Path) -> bool:
    """True for a folder that Domainwright wrote: an artifact, a study or a run."""
    study = folder / "study.yaml"
    try:
        if study.is_file():
            with study.open("rb") as file:
                if file.read(len(_OURS)) == _OURS.encode():
                    return True
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and {"kind", "files", "parents", "hash"} <= manifest.keys()
