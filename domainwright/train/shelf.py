"""Tensors that a step does not need all the time, kept off the device.

    on a CPU     in a file without a name, mapped into memory; pages that were touched go again
    on a GPU     in host memory; what is needed is copied there and back

AdamW's moments are eight bytes a trained weight and the best state four: of a run that trains every
weight they are more than half of what it holds. Each weight's update reads and writes its own
moments alone, so they come one after another, through the same fused update: equal numbers.

The file has its blocks before anything is written to it, for a page of a mapped file that finds the
disk full kills the process; and it has no name, so a killed run leaves nothing behind.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

TOUCHED = 64 * 2**20
"""Bytes that may be in memory before they go again."""
ALIGNED = 64
"""Bytes on which every tensor begins."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class Shelf(dict[str, Tensor]):
    """Zeros shaped like the given tensors, off their device."""

    def __init__(self, like: Mapping[str, Tensor], folder: Path | None) -> None:
        """Make room.

        Args:
            folder: where the file without a name lies; made if it is not there. None: no file, but
                host memory.

        Raises:
            OSError: no room on the disk.
        """
        super().__init__()
        self._map: mmap.mmap | None = None
        self._touched = 0
        if folder is None:
            self.update({k: torch.zeros_like(v, device="cpu") for k, v in like.items()})
            return
        places, size = {}, 0
        for name, value in like.items():
            places[name] = size
            size += -(-value.nbytes // ALIGNED) * ALIGNED
        if not size:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                _reserve(file.fileno(), size)
            except OSError as error:  # of a file without a name it tells no place
                raise OSError(error.errno, error.strerror, str(folder)) from error
            self._map = mmap.mmap(file.fileno(), size)
        for name, value in like.items():
            if value.numel():
                flat = torch.frombuffer(
                    self._map, dtype=value.dtype, count=value.numel(), offset=places[name]
                )
                # With the strides of its own: a fused update pairs elements by their place.
                self[name] = flat.as_strided(value.shape, torch.empty_like(value).stride())
            else:
                self[name] = torch.empty_like(value)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], folder: Path | None) -> "Shelf":
        """A copy of `tensors`; they may be read one by one as they are asked for."""
        shelf = cls(tensors, folder)
        for name, value in tensors.items():
            shelf[name].copy_(value.detach())
            shelf.touched(value.nbytes)
        shelf.leave()
        return shelf

    def touched(self, size: int) -> None:
        """So many bytes were read or written; pages go where they have become many."""
        self._touched += size
        if self._touched >= TOUCHED:
            self.leave()

    def leave(self) -> None:
        """Let all pages go; what they hold stays in the file."""
        self._touched = 0
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def _reserve(file: int, size: int) -> None:
    """Give the file its blocks now."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    zeros = bytes(2**20)
    for start in range(0, size, len(zeros)):
        os.write(file, zeros[: min(len(zeros), size - start)])


class ShelvedAdamW(torch.optim.AdamW):
    """AdamW whose moments lie on a shelf. Its numbers are AdamW's own."""

    def __init__(self, groups: list[dict[str, Any]], folder: Path | None, **settings: Any) -> None:
        """Make room for the moments.

        Args:
            folder: as `Shelf`.

        Raises:
            OSError: no room on the disk.
        """
        super().__init__(groups, **settings)
        every = [p for group in self.param_groups for p in group["params"]]
        self.shelf = Shelf({f"{n}.{k}": p for n, p in enumerate(every) for k in MOMENTS}, folder)
        for n, parameter in enumerate(every):
            self.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                **{key: self.shelf[f"{n}.{key}"] for key in MOMENTS},
            }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update one parameter after another."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        self.shelf.leave()

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        mean, square = near = [state[key].to(parameter.device) for key in MOMENTS]
        adamw(
            [parameter],
            [gradient],
            [mean],
            [square],
            [],
            [state["step"]],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for key, value in zip(MOMENTS, near, strict=True):
            if value is not state[key]:
                state[key].copy_(value)
            self.shelf.touched(value.nbytes)
