"""Attention over packed documents, as a plug-in that every architecture of transformers calls.

A flat batch holds many documents one after the other in one row. Each document attends
causally to itself, its ancestors and nothing else, so the result equals running it alone.
On a CPU no library kernel skips the blocks of a document mask, so documents are attended
one by one: the work is the sum of squares of their lengths, not the square of the sum.

Dimension key: B batch, H heads, K key/value heads, T tokens, h head size.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from domainwright.models.flat import chain
from domainwright.models.segments import Attention, Segments, can_attend

NAME = "domainwright"
"""Name under which the plug-in is registered with transformers."""


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    document_bounds: tuple[int, ...] | None = None,
    document_parents: tuple[int | None, ...] = (),
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer.

    Args:
        query: (B, H, T, h); key, value: (B, K, S, h).
        attention_mask: boolean (B, 1, T, S), True where a query may look; None is causal.
        document_bounds: first token of each document and the total, on a flat batch (B = 1).
        document_parents: the document that each one continues, as in `Flat`.

    Returns:
        (B, T, H, h) and None in the place of the weights, as transformers expects.
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if document_bounds is not None and softcap is None and not dropout:
        rows = [x[0].transpose(0, 1) for x in (query, key, value)]
        # A cache that already holds keys makes them longer than the batch.
        if can_attend(*rows) and len(key[0, 0]) == document_bounds[-1]:
            batch = Segments(document_bounds, document_parents)
            return Attention.apply(*rows, batch, scale, sliding_window)[None], None
    if document_bounds is not None and len(document_bounds) > 2:
        lengths = [b - a for a, b in pairwise(document_bounds)]
        # split, not slices: the gradient of a slice is a zero-filled tensor of the whole batch,
        # one per document; that of a split is one concatenation.
        queries, keys, values = (x.split(lengths, dim=2) for x in (query, key, value))
        parts = []
        for number, q in enumerate(queries):
            seen = chain(document_parents, number)
            k, v = (_joined([x[i] for i in seen]) for x in (keys, values))
            parts.append(_attend_one(q, k, v, None, scale, sliding_window, softcap, dropout))
        return torch.cat(parts, dim=2).transpose(1, 2), None
    out = _attend_one(query, key, value, attention_mask, scale, sliding_window, softcap, dropout)
    return out.transpose(1, 2), None


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _attend_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    window: int | None,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    length, total = query.shape[2], key.shape[2]
    if window is not None and total > window:
        mask = _band(length, total, window, query.device) & (True if mask is None else mask)
    if softcap is not None:
        return _eager(query, key, value, mask, scale, softcap, dropout)
    causal = mask is None and length > 1
    if causal and length != total:
        mask, causal = _band(length, total, None, query.device), False
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scale,
        is_causal=causal,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _band(length: int, total: int, window: int | None, device: torch.device) -> Tensor:
    """Causal boolean mask (1, 1, length, total); with a window, older keys are hidden too."""
    row = torch.arange(total - length, total, device=device)[:, None]
    column = torch.arange(total, device=device)[None, :]
    seen = column <= row
    if window is not None:
        seen &= column > row - window
    return seen[None, None]


def _eager(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float,
    dropout: float,
) -> Tensor:
    """Plain attention, for scores that are capped before the softmax (Gemma 2)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    score = softcap * torch.tanh(query @ key.transpose(-1, -2) * scale / softcap)
    if mask is None:
        mask = _band(query.shape[2], key.shape[2], None, query.device)
    weight = score.masked_fill(~mask, float("-inf")).softmax(-1, torch.float32).to(query.dtype)
    return functional.dropout(weight, dropout) @ value


# Absent from transformers' mask table on purpose: then it builds no mask of its own and
# hands through the 4-D mask it is given, or None.
AttentionInterface.register(NAME, attend)
