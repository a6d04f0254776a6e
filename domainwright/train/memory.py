"""Memory a run takes: how it is measured, what it may be, and what it will be.

    peak = what the process holds already + fixed + tokens of the largest pass · slope

Fixed part and slope come from a probe on this machine (`train.probe`), not from formulas: they
depend on the attention plug-in, on kernels and on the allocator. On a GPU the device's own
memory is meant, elsewhere the resident memory of the process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from domainwright.core import machine
from domainwright.models.forms import TrainRow
from domainwright.train.order import micro_batches

LARGEST = 2048
"""More tokens in one pass do not run faster on a CPU; measured in bench/."""
LARGEST_ON_GPU = 16_384
SHARE = 0.75
"""Of the memory there is, what a run may take when the study sets no budget."""
MARGIN = 0.03
"""Share of the budget kept free: the prediction errs by about this much."""
MIB = 2**20


class Meter:
    """Peak memory of one device since `reset`."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"

    def reset(self) -> float:
        """Begin a measurement; MiB held at its begin."""
        if self._gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / MIB
        machine.give_back()
        machine.reset_peak()
        return machine.resident_mib()

    def peak_mib(self) -> float:
        if self._gpu:
            return torch.cuda.max_memory_allocated() / MIB
        return machine.peak_rss_mib()


def budget_mib(device: torch.device, memory_gb: float | None) -> float:
    """What a run may take: the study's budget, else most of what the device has."""
    if memory_gb is None:
        whole = machine.memory_gb()
        if device.type == "cuda":
            whole = torch.cuda.get_device_properties(device).total_memory / 1e9
        memory_gb = SHARE * whole
    return memory_gb * 1e9 / MIB


def largest_pass(device: torch.device) -> int:
    """Tokens beyond which a larger pass gains nothing."""
    return LARGEST_ON_GPU if device.type == "cuda" else LARGEST


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, in torch's CPU allocator, or in Python."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in said or "not enough memory" in said
    )


def halved(limit: int, rows: Sequence[TrainRow]) -> int | None:
    """A smaller limit that splits the largest pass over `rows`; None when every pass is one
    document."""
    passes = [sum(len(r.ids) for r in g) for g in micro_batches(rows, limit) if len(g) > 1]
    return max(passes) // 2 if passes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Memory of a pass over so many tokens, from two passes that were measured."""

    fixed_mib: float
    mib_per_token: float

    def at(self, tokens: int) -> float:
        return self.fixed_mib + self.mib_per_token * tokens

    def tokens(self, mib: float) -> int:
        """Most tokens within `mib`."""
        room = mib - self.fixed_mib
        return max(0, int(room / self.mib_per_token)) if self.mib_per_token > 0 else 10**9

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> "Line":
        """The line through two points (tokens, MiB); never falling."""
        slope = max(0.0, (many[1] - few[1]) / (many[0] - few[0])) if many[0] > few[0] else 0.0
        return cls(fixed_mib=many[1] - slope * many[0], mib_per_token=slope)
