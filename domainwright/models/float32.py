"""Which library multiplies float32 matrices on a CPU.

PyTorch asks MKL, which is slow on AMD's processors: 190 GFLOP/s on two cores of a Zen 5, where
oneDNN, in the same wheel, reaches 400 to 440 at the same rounding (LOG.md, 2026-11-23).
PyTorch takes oneDNN for float32 under one switch only, which also allows it to round the inputs to
bfloat16. It does so on processors with AMX, which AMD does not make; one product tells.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

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
"""Scores a head up to which PyTorch's attention by oneDNN starts later than MKL's ends."""
SMALLEST_AT_ONCE, LARGEST_AT_ONCE = 36_000, 200_000
"""Scores of all heads, and of one, between which writing them down is the fastest."""


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


def _is_taken() -> bool:
    # Asked only where a base has asked before: to ask is to take it.
    return bool(take_onednn.cache_info().currsize) and take_onednn()


@contextmanager
def untold() -> Iterator[None]:
    """Inside, products are made as PyTorch has them made that nobody told anything."""
    if not _is_taken():
        yield
        return
    backend: Any = torch.backends.mkldnn
    backend.matmul.fp32_precision = UNSET
    try:
        yield
    finally:
        backend.matmul.fp32_precision = TAKEN


def scaled_dot_product(query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
    """PyTorch's attention, of few scores a head by MKL.

    Its many small products start late in oneDNN: 8 x 60 scores of 9 heads of 64 take 146 µs there
    and 22 by MKL, 200 x 200 847 and 769, 1,000 x 1,000 6,500 and 11,700.
    """
    few = query.shape[2] * key.shape[2] <= FEW_SCORES
    with untold() if few else nullcontext():
        return functional.scaled_dot_product_attention(query, key, value, **how)


def at_once(query: Tensor, key: Tensor) -> bool:
    """Whether attention is faster with all scores written down, by two large products.

    74 x 604 scores of 9 heads of 64: 0.6 ms by oneDNN, 0.9 by PyTorch's own attention and MKL;
    150 x 700 1.4 and 2.0; above LARGEST_AT_ONCE they leave the caches. Gradients would keep them.
    """
    if query.dtype != torch.float32 or query.device.type != "cpu" or torch.is_grad_enabled():
        return False
    rows, heads, length = query.shape[:3]
    scores = rows * length * key.shape[2]
    many = scores <= LARGEST_AT_ONCE and scores * heads > SMALLEST_AT_ONCE
    return length > 1 and many and _is_taken()


def _rounds() -> bool:
    """Whether a product loses what bfloat16 cannot hold."""
    fine = torch.full((SIZE, SIZE), 1 + 2**-20)
    return not torch.equal(fine @ torch.eye(SIZE), fine)
