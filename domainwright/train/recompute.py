"""Gradient checkpointing: keep each block's input only, and compute the block again backwards.

    memory per token   one input per block, and one block's activations
    time               one more forward pass: about a third more
    between passes     freed memory goes back to the system: in gaps between passes of other lengths
                       lay as much as all activations

transformers' own switch acts in training mode only, which would also switch on the dropout
that some configurations carry (GPT-2: 0.1); so the blocks are wrapped here. The noise of an
adapter's dropout is drawn again from the same state: gradients are equal bit for bit.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from domainwright.core import machine
from domainwright.models.base import Base

T = TypeVar("T")


@contextmanager
def recomputed(base: Base, on: bool = True) -> Iterator[None]:
    """Inside this block, backward passes recompute the base's blocks. Nothing with `on` false."""
    wrapped = blocks(base) if on else []
    # A block may carry a faster forward of its own on the instance: that one is recomputed.
    before = [block.__dict__.get("forward") for block in wrapped]
    for block in wrapped:
        block.forward = _again(block.forward)
    trunk = base.trunk if on else None
    if trunk is not None:
        # The fused trunk never calls the blocks; it has a switch of its own.
        trunk.checkpointing = True
    try:
        yield
    finally:
        if trunk is not None:
            trunk.checkpointing = False
        for block, own in zip(wrapped, before, strict=True):
            del block.forward
            if own is not None:
                block.forward = own


def spared(passes: Iterable[T], on: bool) -> Iterator[T]:
    """The passes; with `on`, what the one before has freed is given back first."""
    for each in passes:
        if on:
            machine.give_back()
        yield each


def blocks(base: Base) -> list[nn.Module]:
    """The base's blocks, in order."""
    found: dict[int, nn.Module] = {}
    for linear in base.hooks.linears:
        path = linear.path.partition(f".{linear.block}.")[0]
        found.setdefault(linear.block, base.model.get_submodule(f"{path}.{linear.block}"))
    return list(found.values())


def _again(plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*inputs, **named)
        return checkpoint(plain, *inputs, use_reentrant=False, **named)

    return forward
