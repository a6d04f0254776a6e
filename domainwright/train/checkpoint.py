"""Checkpoints of a run: adapter, best adapter, optimiser, position. Atomic, verified, swept.

Everything else (data order, dropout) follows from the seed and the step, so nothing else
needs saving and a resumed run ends with bit-identical weights.

Tensors go into files of at most SHARD bytes and are read one by one: a run whose optimiser's state
lies on a shelf has no room for all of them.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from domainwright.core.artifacts import aside, read_manifest, sweep, write_folder
from domainwright.core.errors import ConfigError, DataError
from domainwright.train.shelf import Shelf

KEEP = 2
"""Newest checkpoints kept: one is enough unless its disk block goes bad."""
SHARD = 256 * 2**20
"""Bytes of a file beyond which the next tensor begins another."""


@dataclass
class State:
    """Where a run is."""

    step: int = 0
    """Optimiser steps taken."""
    best_step: int | None = None
    best_loss: float | None = None
    """Development loss of the best state, nats per token."""
    over_step: int | None = None
    over_loss: float | None = None
    over_general: float | None = None
    """Of a state of lower loss that forgets too much."""
    averaged: int = 0
    """Steps whose states are in the mean."""
    since_best: int = 0
    """Checks since the best state."""
    first_loss: float | None = None
    seconds: float = 0.0
    """Training time so far, resumed parts summed."""
    tokens: int = 0
    peak_rss_mib: int = 0
    halved_to: int | None = None
    """Tokens a pass since memory ran out. A resumed run goes on with them."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Every line of metrics.jsonl so far."""


def save(
    folder: Path,
    state: State,
    tensors: Mapping[str, Tensor],
    run_hash: str,
    shelves: Iterable[Shelf] = (),
) -> None:
    """Write `folder/step-N`, then remove all but the newest ones.

    Args:
        shelves: on which some of the tensors lie.
    """

    def fill(out: Path) -> None:
        with disk_errors(out):
            for number, names in enumerate(_shards(tensors)):
                part = {name: tensors[name].detach().contiguous() for name in names}
                save_file(part, out / f"state{f'-{number}' * bool(number)}.safetensors")
                for shelf in shelves:
                    shelf.leave()
        (out / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")

    write_folder(folder / f"step-{state.step:07d}", "checkpoint", fill, parents={"run": run_hash})
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        gone = aside(old, "del")
        old.rename(gone)
        shutil.rmtree(gone)


def _shards(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of every file's tensors."""
    shards, size = [list[str]()], 0
    for name, value in tensors.items():
        if size + value.nbytes > SHARD and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += value.nbytes
    return shards


class Stored(Mapping[str, Tensor]):
    """Tensors of a checkpoint, read when they are asked for."""

    def __init__(self, places: Mapping[str, tuple[Path, str]]) -> None:
        """Read nothing yet.

        Args:
            places: name -> (file, name there).
        """
        self._places = dict(places)
        self._open: tuple[Path, Any] | None = None

    @classmethod
    def of(cls, folder: Path) -> "Stored":
        """All of a checkpoint."""
        places = dict[str, tuple[Path, str]]()
        for path in sorted(folder.glob("state*.safetensors")):
            with safe_open(path, "pt") as file:
                places |= {name: (path, name) for name in file.keys()}  # noqa: SIM118 (no dict)
        return cls(places)

    def part(self, kind: str) -> "Stored":
        """Those whose names begin with `kind` and a dot, by the rest of their names."""
        start = f"{kind}."
        return Stored(
            {k.removeprefix(start): v for k, v in self._places.items() if k.startswith(start)}
        )

    def __getitem__(self, name: str) -> Tensor:
        path, own = self._places[name]
        if self._open is None or self._open[0] != path:
            # One at a time: what was read of a file is in memory as long as it is open.
            self._open = path, safe_open(path, "pt")
        value: Tensor = self._open[1].get_tensor(own)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """safetensors tells a full or failing disk in an error of its own; here it is an OSError."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(folder)) from error


def newest(folder: Path, run_hash: str) -> tuple[State, Stored] | None:
    """The newest undamaged checkpoint, or None when there is none.

    Raises:
        ConfigError: it belongs to other data, settings or another base.
    """
    if not folder.is_dir():
        return None
    sweep(folder)
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            manifest = read_manifest(path, "checkpoint")
        except DataError:
            continue  # damaged: the one before it is whole, and the run repeats a few steps
        if manifest["parents"].get("run") != run_hash:
            raise ConfigError(
                f"The run in {folder.parent} was started with other data, settings or base.",
                "resume with the same study file and data, or start afresh without --resume.",
            )
        state = State(**json.loads((path / "state.json").read_text(encoding="utf-8")))
        return state, Stored.of(path)
    return None


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors under flat names."""
    return {
        f"{number}.{key}": value
        for number, entry in optimiser.state_dict()["state"].items()
        for key, value in entry.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the optimiser where it was.

    Args:
        tensors: what `optimiser_tensors` gave.
    """
    parameters = [(p, g["fused"]) for g in optimiser.param_groups for p in g["params"]]
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        parameter, fused = parameters[int(number)]
        entry = optimiser.state[parameter]
        if key in entry:
            entry[key].copy_(value)
        elif key == "step":
            # A copy: what is read may stand for its place in the file.
            entry[key] = value.to(parameter.device if fused else value.device, copy=True)
        else:
            # A file holds no strides, and a fused update pairs elements by their place in memory.
            entry[key] = torch.empty_like(parameter).copy_(value)
