"""What is asked of a model once and kept: a folder named by the hash of all that decides it."""

from collections.abc import Callable
from pathlib import Path

from domainwright.core import machine
from domainwright.core.artifacts import read_manifest, sha256_json, write_folder
from domainwright.core.errors import DataError
from domainwright.core.lock import turn


def kept_artifact(
    folder: Path, parents: dict[str, str], fill: Callable[[Path], None]
) -> tuple[Path, str]:
    """(the artifact of these parents under `folder`, its hash), made where it is missing.

    Of several processes that miss it one makes it, and the others wait.
    """
    place = folder / sha256_json(parents)[:16]
    try:
        return place, read_manifest(place, "lessons")["hash"]
    except DataError:
        with turn(folder.with_name(f".{folder.name}.lock")):
            return place, _made(place, parents, fill)


def _made(place: Path, parents: dict[str, str], fill: Callable[[Path], None]) -> str:
    try:
        manifest = read_manifest(place, "lessons")
    except DataError:
        manifest = write_folder(place, "lessons", fill, parents=parents)
        machine.give_back()  # a teacher that was loaded is gone by now
    return str(manifest["hash"])
