"""Checkpoints of a run: adapter, best adapter, optimiser, position. Atomic, verified, swept.

Everything else (data order, dropout) follows from the seed and the step, so nothing else
needs saving and a resumed run ends with bit-identical weights.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from domainwright.core.artifacts import aside, read_manifest, sweep, write_folder
from domainwright.core.errors import ConfigError, DataError

KEEP = 2
"""Newest checkpoints kept: one is enough unless its disk block goes bad."""


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


def save(folder: Path, state: State, tensors: dict[str, Tensor], run_hash: str) -> None:
    """Write `folder/step-N`, then remove all but the newest ones."""

    def fill(out: Path) -> None:
        with disk_errors(out):
            save_file(
                {k: v.detach().contiguous() for k, v in tensors.items()}, out / "state.safetensors"
            )
        (out / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")

    write_folder(folder / f"step-{state.step:07d}", "checkpoint", fill, parents={"run": run_hash})
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        gone = aside(old, "del")
        old.rename(gone)
        shutil.rmtree(gone)


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


def newest(folder: Path, run_hash: str) -> tuple[State, dict[str, Tensor]] | None:
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
        return state, load_file(path / "state.safetensors")
    return None


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors under flat names."""
    return {
        f"optimiser.{number}.{key}": value
        for number, entry in optimiser.state_dict()["state"].items()
        for key, value in entry.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    whole = optimiser.state_dict()
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, number, key = name.split(".", 2)
            whole["state"].setdefault(int(number), {})[key] = value
    optimiser.load_state_dict(whole)
    for parameter, entry in optimiser.state.items():
        for key, value in entry.items():
            # A file holds no strides, and a fused update pairs elements by their place in memory.
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                entry[key] = torch.empty_like(parameter).copy_(value)
