"""Attention over a flat batch as one operation with its own gradient: the native kernel's door.

Dimension key: T tokens, H query heads, K key/value heads, h head size.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from domainwright.models.flat import chain
from domainwright.models.kernels import address, fast


class Segments:
    """The documents of a flat batch and what each of them sees, as the kernel reads it."""

    def __init__(self, bounds: Sequence[int], parents: Sequence[int | None] = ()) -> None:
        self.count, self.tokens = len(bounds) - 1, bounds[-1]
        first, ancestors = [0], []
        for number in range(self.count):
            ancestors.extend(chain(parents, number)[:-1])
            first.append(len(ancestors))
        lengths = [b - a for a, b in pairwise(bounds)]
        self.lent = sum(lengths[a] for a in ancestors)
        """Tokens that are seen by descendants, counted once for each of them."""
        self.table = longs([*bounds[:-1], *bounds[1:], *first, *ancestors])


@lru_cache(maxsize=4)
def segments_of(bounds: tuple[int, ...], parents: tuple[int | None, ...]) -> Segments:
    """One table for all layers of a model that are called with the same batch."""
    return Segments(bounds, parents)


def longs(numbers: Sequence[int]) -> Any:
    return (ctypes.c_long * len(numbers))(*numbers)


def can_attend(query: Tensor, *others: Tensor) -> bool:
    """Whether the kernel takes these: bfloat16 on a CPU with it, rows of a multiple of 16."""
    return fast(query, query.shape[-1]) is not None and all(
        x.stride(-1) == 1 and not (x.stride(0) | x.stride(1)) & 1 for x in (query, *others)
    )


def forward(
    query_THh: Tensor,
    key_TKh: Tensor,
    value_TKh: Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    """(outputs (T, H, h), log Σ exp of the scores (H, T) in float32)."""
    tokens, heads, size = query_THh.shape
    out = query_THh.new_empty(tokens, heads, size)
    normaliser = query_THh.new_empty(heads, tokens, dtype=torch.float32)
    fast(query_THh).dw_attention_forward(
        _shape(query_THh, key_TKh, segments, window),
        longs([n for x in (query_THh, key_TKh, value_TKh) for n in x.stride()[:2]]),
        ctypes.c_float(scale),
        segments.table,
        address(query_THh),
        address(key_TKh),
        address(value_TKh),
        address(out),
        address(normaliser),
    )
    return out, normaliser


def backward(
    query_THh: Tensor,
    key_TKh: Tensor,
    value_TKh: Tensor,
    out_THh: Tensor,
    pull_THh: Tensor,
    normaliser_HT: Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
    into: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write the gradients of query, key and value into the views `into`."""
    keys, size = key_TKh.shape[1:]
    grad_query, grad_key, grad_value = into
    room = None
    if segments.lent:
        rows = 2 * keys * (segments.tokens + segments.lent)
        room = query_THh.new_empty(rows, size, dtype=torch.float32)
    fast(query_THh).dw_attention_backward(
        _shape(query_THh, key_TKh, segments, window),
        longs(
            [
                n
                for x in (query_THh, key_TKh, value_TKh, grad_query, grad_key)
                for n in x.stride()[:2]
            ]
        ),
        ctypes.c_float(scale),
        segments.table,
        address(query_THh),
        address(key_TKh),
        address(value_TKh),
        address(out_THh),
        address(pull_THh),
        address(normaliser_HT),
        address(grad_query),
        address(grad_key),
        address(grad_value),
        address(room),
    )


def _shape(query_THh: Tensor, key_TKh: Tensor, segments: Segments, window: int | None) -> Any:
    tokens, heads, size = query_THh.shape
    return longs([segments.count, heads, key_TKh.shape[1], size, window or 0, tokens])


class Attention(torch.autograd.Function):
    """The kernel as a differentiable function, for models that call attention layer by layer."""

    @staticmethod
    def forward(
        ctx: Any,
        query_THh: Tensor,
        key_TKh: Tensor,
        value_TKh: Tensor,
        segments: Segments,
        scale: float,
        window: int | None,
    ) -> Tensor:
        out, normaliser = forward(query_THh, key_TKh, value_TKh, segments, scale, window)
        ctx.save_for_backward(query_THh, key_TKh, value_TKh, out, normaliser)
        ctx.rest = segments, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, normaliser = ctx.saved_tensors
        segments, scale, window = ctx.rest
        into = (
            torch.empty(query.shape, dtype=query.dtype),
            torch.empty(key.shape, dtype=key.dtype),
            torch.empty(value.shape, dtype=value.dtype),
        )
        pull = pull.contiguous()
        backward(query, key, value, out, pull, normaliser, segments, scale, window, into)
        return *into, None, None, None
