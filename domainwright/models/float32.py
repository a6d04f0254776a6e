"""Which library multiplies float32 matrices on a CPU.

PyTorch asks MKL, which is slow on AMD's processors: 190 GFLOP/s on two cores of a Zen 5, where
oneDNN, in the same wheel, reaches 400 to 440 at the same rounding (LOG.md, 2026-11-23).
PyTorch takes oneDNN for float32 under one switch only, which also allows it to round the inputs to
bfloat16. It does so on processors with AMX, which AMD does not make; one product tells.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from domainwright.core import machine

LEAST = 10_000_000
"""Parameters of a base for which it pays: compiling small products takes longer than they do."""
UNSET = "none"
"""Where the switch is in a PyTorch that nobody has told anything."""
TAKEN = "bf16"
"""Where it allows oneDNN."""
SIZE = 64
"""Rows of the product that tells; PyTorch leaves far smaller ones to MKL."""

FEW_SCORES = 200 * 200
"""Scores a head up to which oneDNN's attention takes longer to start than MKL's to end."""


@functools.cache
def take_onednn() -> bool:
    """Multiply float32 with oneDNN from now on where that is faster and rounds no input.

    Only for AMD, and once a process: it is its switch for all of PyTorch's float32 products. One
    that somebody has moved already stays where it is.
    """
    backend: Any = torch.backends.mkldnn
    switch = backend.matmul
    if not machine.is_amd() or not backend.is_available() or switch.fp32_precision != UNSET:
        return False
    switch.fp32_precision = TAKEN
    if _rounds():
        switch.fp32_precision = UNSET
        return False
    return True


@contextmanager
def attending(scores: int) -> Iterator[None]:
    """Around attention with so many scores a head: few of them by what PyTorch takes untold.

    9 heads of 64: 22 µs by MKL against 146 by oneDNN for 8 x 60 scores, 87 against 273 for
    40 x 100, 0.77 against 0.85 ms for 200 x 200, but 4.5 against 3.2 ms for 500 x 500.
    """
    # Asked only where a base has asked before: to ask is to take it.
    if scores > FEW_SCORES or not (take_onednn.cache_info().currsize and take_onednn()):
        yield
        return
    backend: Any = torch.backends.mkldnn
    backend.matmul.fp32_precision = UNSET
    try:
        yield
    finally:
        backend.matmul.fp32_precision = TAKEN


def _rounds() -> bool:
    """Whether a product loses what bfloat16 cannot hold."""
    fine = torch.full((SIZE, SIZE), 1 + 2**-20)
    return not torch.equal(fine @ torch.eye(SIZE), fine)
