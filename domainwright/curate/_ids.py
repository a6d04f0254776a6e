"""Was this id seen before? For files whose ids do not fit into memory.

A hash of 8 bytes is kept for each id, the newest in a set, the others as sorted runs in a file of
no name. A run is merged with the one before it when that is no longer, so there are few of them,
and a thousand ids are looked up at once.
"""

import tempfile
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_FRESH = 2**17
"""Hashes in the set: about 10 MB."""


class Seen:
    def __init__(self, fresh: int = _FRESH) -> None:
        self._most, self._fresh = fresh, set[int]()
        self._runs = list[NDArray[np.int64]]()

    def of(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that were added before. Ids of one hash are taken for equal."""
        hashes = {id: hash(id) for id in ids}
        found = {id for id, own in hashes.items() if own in self._fresh}
        if self._runs and hashes:
            names = np.array(list(hashes), dtype=object)
            own_N = np.fromiter(hashes.values(), np.int64, len(hashes))
            for run in self._runs:
                place_N = np.minimum(np.searchsorted(run, own_N), len(run) - 1)
                found.update(names[run[place_N] == own_N])
        return found

    def add(self, id: str) -> None:
        self._fresh.add(hash(id))
        if len(self._fresh) >= self._most:
            run = np.sort(np.fromiter(self._fresh, np.int64, len(self._fresh)))
            self._fresh.clear()
            while self._runs and len(self._runs[-1]) <= len(run):
                run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
            self._runs.append(_on_disk(run))


def _on_disk(run: NDArray[np.int64]) -> NDArray[np.int64]:
    with tempfile.TemporaryFile() as file:
        file.write(run.tobytes())
        file.flush()
        # The mapping keeps the file's bytes after it is closed.
        return np.memmap(file, np.int64, "r", shape=run.shape)
