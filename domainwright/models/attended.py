"""Attention of one layer of a fused trunk, whose gradient is asked for by hand.

Dimension key: T tokens, H query heads, K key/value heads, h head size.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from domainwright.models import segments
from domainwright.models.attention import attend
from domainwright.models.flat import Flat

Parts = tuple[Tensor, Tensor, Tensor]
"""Views (T, H or K, h) of queries, keys and values, or of their gradients."""


class Attended(Protocol):
    out: Tensor
    """(T, H, h)."""

    def backward(self, parts: Parts, pull_THh: Tensor, into: Parts) -> None:
        """Write the gradients of `parts`, as they were given, into the views `into`."""


def attend_rows(
    parts: Parts, flat: Flat, seen: segments.Segments, scale: float, window: int | None, keep: bool
) -> Attended:
    """Attention over a flat batch; `keep`: a gradient will be asked for."""
    if segments.can_attend(*parts):
        return _Native(parts, seen, scale, window)
    return _Plain(parts, flat, scale, window, keep)


class _Native:
    def __init__(
        self, parts: Parts, seen: segments.Segments, scale: float, window: int | None
    ) -> None:
        self.settings = seen, scale, window
        self.out, self.normaliser = segments.forward(*parts, *self.settings)

    def backward(self, parts: Parts, pull_THh: Tensor, into: Parts) -> None:
        segments.backward(*parts, self.out, pull_THh, self.normaliser, *self.settings, into)


class _Plain:
    """PyTorch's attention, with a graph of its own that is kept for the backward pass."""

    def __init__(
        self, parts: Parts, flat: Flat, scale: float, window: int | None, keep: bool
    ) -> None:
        # Copies: the trunk's own buffers are views of one product.
        query, key, value = (x.detach().transpose(0, 1)[None].contiguous() for x in parts)
        self.leaves = query, key, value
        with torch.set_grad_enabled(keep):
            for leaf in self.leaves:
                leaf.requires_grad_(keep)
            self.graphed = attend(
                nn.Module(),
                query,
                key,
                value,
                scaling=scale,
                sliding_window=window,
                document_bounds=flat.bounds,
                document_parents=flat.parents,
            )[0][0]
        self.out = self.graphed.detach()

    def backward(self, parts: Parts, pull_THh: Tensor, into: Parts) -> None:
        for gradient, view in zip(
            torch.autograd.grad(self.graphed, self.leaves, pull_THh), into, strict=True
        ):
            view.copy_(gradient[0].transpose(0, 1))
