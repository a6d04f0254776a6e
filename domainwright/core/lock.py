"""One process at a time in a run folder. The lock dies with its process."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from domainwright.core.errors import ConfigError

LOCK = ".lock"


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process.

    Raises:
        ConfigError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"Another process is working in {folder}.",
                "wait for it, stop it, or give another folder with -o.",
            ) from error
        yield


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for this process as soon as no other does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
