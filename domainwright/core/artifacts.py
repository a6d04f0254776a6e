"""Artifact folders. `manifest.json` is written last: where it is, the folder is complete.

Every manifest names its parents by content hash, so a result can be traced to its
source files. Files are written under a temporary name, flushed to the disk and
renamed, so a kill at any moment leaves the old folder or the new one, never half.
"""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from domainwright.core.errors import DataError

MANIFEST = "manifest.json"
_LIFE = secrets.token_hex(4)
"""Tells this process from an earlier one of the same number: a container's is always the same."""


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(data: Any) -> str:
    """Hex SHA-256 of plain data: equal data, equal hash, whatever the key order."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text`, durable and all at once."""
    temporary = aside(path, "tmp")
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def write_json(path: Path, data: Any) -> None:
    write_atomic(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_folder(
    folder: Path,
    kind: str,
    fill: Callable[[Path], None],
    *,
    parents: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make an artifact folder: `fill` writes its files, then the manifest, then one rename.

    Args:
        kind: "dataset", "adapter", "checkpoint", "scorecard", "verdict".
        fill: writes files into the (temporary) folder it is given.
        parents: name -> content hash of what this was made from.
        facts: anything else the manifest should say.

    Returns:
        The manifest. Its "hash" covers the files, kind, parents and facts.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    temporary = aside(folder, "tmp")
    temporary.mkdir()
    try:
        fill(temporary)
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        manifest = seal(temporary, kind, files, parents=parents, facts=facts)
        if folder.exists():
            old = aside(folder, "del")
            os.replace(folder, old)
            os.replace(temporary, folder)
            shutil.rmtree(old)
        else:
            os.replace(temporary, folder)
        _sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return manifest


def seal(
    folder: Path,
    kind: str,
    files: Iterable[Path],
    *,
    parents: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the manifest of a folder whose `files` are in place; return it."""
    hashes = {}
    for path in files:
        # safetensors writes mode 0600; a server under another user must read it.
        path.chmod(0o644)
        _sync_file(path)
        hashes[path.relative_to(folder).as_posix()] = sha256_file(path)
    content = {
        "kind": kind,
        "files": hashes,
        "parents": dict(parents or {}),
        "facts": dict(facts or {}),
    }
    manifest = {
        **content,
        "hash": _content_hash(content),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path, kind: str | None = None, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of a complete artifact; with `verify`, every file's hash is checked.

    Raises:
        DataError: no manifest, another kind, a missing file or altered bytes.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            f"{folder} holds no {MANIFEST}: it is no artifact, or writing it was interrupted.",
            "give the folder of a finished run, or run the command again with --resume.",
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is not valid JSON ({error}).", "make the artifact again."
        ) from error
    if not isinstance(manifest, dict) or manifest.get("hash") != _content_hash(manifest):
        raise DataError(
            f"{path} was altered after it was written (its own hash differs).",
            "make the artifact again, or restore the file.",
        )
    if kind is not None and manifest["kind"] != kind:
        raise DataError(
            f"{folder} is a {manifest['kind']!r} artifact, not a {kind!r}.",
            f"give the folder of a {kind}.",
        )
    if verify:
        for name, digest in manifest["files"].items():
            file = folder / name
            if not file.is_file():
                raise DataError(f"{folder} lacks its file {name!r}.", "make the artifact again.")
            if sha256_file(file) != digest:
                raise DataError(
                    f"{file} was altered after it was written (its SHA-256 differs).",
                    "make the artifact again, or restore the file.",
                )
    return manifest


def aside(path: Path, mark: str) -> Path:
    """Beside `path`, a name for what is not finished ("tmp") or no longer wanted ("del")."""
    return path.with_name(f".{mark}-{os.getpid()}.{_LIFE}-{path.name}")


def sweep(folder: Path) -> None:
    """Remove temporary leftovers of processes that no longer live."""
    for path in folder.glob(".tmp-*"):
        if _left_over(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in folder.glob(".del-*"):
        if _left_over(path):
            target = folder / path.name.split("-", 2)[2]
            # Killed between the two renames: the new folder never took the name; put the old back.
            if not target.exists():
                os.replace(path, target)
            else:
                shutil.rmtree(path)


def _content_hash(manifest: Mapping[str, Any]) -> str:
    return sha256_json({key: manifest.get(key) for key in ("kind", "files", "parents", "facts")})


def _left_over(path: Path) -> bool:
    """Whether the process that gave `path` its name is gone."""
    number, _, life = path.name.split("-", 2)[1].partition(".")
    if not number.isdigit():
        return False
    return life != _LIFE if int(number) == os.getpid() else not _alive(int(number))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
