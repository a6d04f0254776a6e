"""An artifact and its parents, found by content hash among the folders beside it."""

from pathlib import Path
from typing import Any

from domainwright.core.artifacts import MANIFEST, read_manifest
from domainwright.core.errors import DataError


def trace(folder: Path) -> dict[str, Any]:
    """The artifact as a tree of {name, hash, folder, parents}; every file's hash is checked.

    Raises:
        DataError: no complete artifact, or altered files.
    """
    manifest = read_manifest(folder)
    known = _artifacts_around(folder)
    return _node(
        manifest["kind"], manifest["hash"], known | {manifest["hash"]: folder}, frozenset()
    )


def _node(name: str, digest: str, known: dict[str, Path], above: frozenset[str]) -> dict[str, Any]:
    folder = known.get(digest)
    if folder is None or digest in above:
        return {"name": name, "hash": digest}
    parents = read_manifest(folder)["parents"]
    return {
        "name": name,
        "hash": digest,
        "folder": str(folder),
        "parents": [_node(n, d, known, above | {digest}) for n, d in parents.items() if d],
    }


def _artifacts_around(folder: Path) -> dict[str, Path]:
    """Hash -> folder of every artifact in the study that `folder` belongs to."""
    top = folder
    for parent in folder.resolve().parents[:4]:
        if (parent / "study.yaml").is_file():
            top = parent
    found = {}
    for path in top.rglob(MANIFEST):
        if "checkpoints" in path.parts:
            continue
        try:
            found[read_manifest(path.parent, verify=False)["hash"]] = path.parent
        except DataError:
            continue
    return found
