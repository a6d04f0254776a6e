"""Where adapter layers hang in a block, whatever they compute: a function Ad of (…, D).

    houlsby    x1 = x0 + u + Ad(u)         x2 = x1 + w + Ad(w)
    pfeiffer   x2 = t + Ad(t)              t = x1 + w, the block's output
    parallel   x2 = x1 + w + Ad(x1)        or Ad(norm(x1))

u and w are what attention and the feed-forward part add to the residual stream (methods.md
§0.2). AdapterDrop (Rücklé et al. 2021, arXiv:2010.11918) leaves out the first blocks: always
the same ones, or as many as chance says in each training step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from domainwright.core.seeds import derive
from domainwright.models.base import Base
from domainwright.models.hooks import Hook
from domainwright.models.points import enters_feed_forward, summed

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Place:
    """One adapter layer's place."""

    block: int
    block_path: str
    part: str
    """"attention" or "output": of what its result becomes a part."""
    paths: tuple[str, ...]
    """Hook points: where it is added, and before that where it reads, if elsewhere."""


def places_of(base: Base, variant: str, first: int = 0) -> Iterator[Place]:
    """The places of every layer from block `first` on, in the model's order.

    Raises:
        CapabilityError: a block has no such part.
    """
    linears, sites = base.hooks.linears, base.hooks.sites
    for number, block in enumerate(base.hooks.at("block")):
        if number < first:
            continue
        if variant == "pfeiffer":
            yield Place(number, block.path, "output", (block.path,))
            continue
        leaving = summed(linears, sites, number, "feed_forward")
        if variant == "houlsby":
            attention = summed(linears, sites, number, "attention")
            yield Place(number, block.path, "attention", (attention,))
            yield Place(number, block.path, "output", (leaving,))
        else:
            entering = enters_feed_forward(sites, number)
            yield Place(number, block.path, "output", (entering, leaving))


@dataclass(frozen=True, slots=True)
class Drop:
    """Which blocks go without their layers now.

    Robust AdapterDrop leaves out the first K blocks of a training step, K uniform from `first`
    to the last but one. K follows from the seed that the loop gives PyTorch for each step, not
    from a draw: it is the same for every pass of the step, for a block that is computed again
    and for a run that was resumed.
    """

    random: bool = False
    first: int = 0
    blocks: int = 1

    def skips(self, block: int) -> bool:
        if not (self.random and torch.is_grad_enabled()):
            return False
        drawn = derive(torch.initial_seed(), "adapter drop") % (self.blocks - self.first)
        return block < self.first + drawn


def hooks_of(
    place: Place, layer: Function, drop: Drop, *, normed: bool = False
) -> Iterator[tuple[str, Hook]]:
    """(path of a hook point, what hangs there) of one layer.

    Args:
        normed: a layer that lies beside the feed-forward part reads what that part reads, not
            the residual stream.
    """
    if len(place.paths) == 1:
        yield place.paths[0], _After(layer, place.block, drop)
        return
    beside = _Beside(layer, place.block, drop, normed)
    # Bound once: a hook is removed by identity.
    yield place.paths[0], beside.enter
    yield place.paths[1], beside.leave


class _After:
    """out + Ad(out)."""

    def __init__(self, layer: Function, block: int, drop: Drop) -> None:
        self.layer, self.block, self.drop = layer, block, drop

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        if self.drop.skips(self.block):
            return out
        return out + self.layer(out).to(out.dtype)


class _Beside:
    """Two hooks: `enter` keeps what the feed-forward part reads, `leave` adds Ad of it."""

    def __init__(self, layer: Function, block: int, drop: Drop, normed: bool) -> None:
        self.layer, self.block, self.drop, self.normed = layer, block, drop, normed
        # Taken out again at once: a batch is read block by block, and a block that is computed
        # again enters again.
        self.entered: list[Tensor] = []

    def enter(self, x: Tensor, out: Tensor) -> Tensor:
        self.entered = [out if self.normed else x]
        return out

    def leave(self, x: Tensor, out: Tensor) -> Tensor:
        entered = self.entered.pop()
        if self.drop.skips(self.block):
            return out
        return out + self.layer(entered).to(out.dtype)
