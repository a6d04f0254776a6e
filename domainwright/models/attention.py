"""Attention over packed documents, as a plug-in that every architecture of transformers calls.

A flat batch holds many documents one after the other in one row. Each document attends
causally to itself, its ancestors and nothing else, so the result equals running it alone.
On a CPU no library kernel skips the blocks of a document mask, so documents are attended
one by one: the work is the sum of squares of their lengths, not the square of the sum.

Dimension key: B batch, H heads, K key/value heads, T tokens, h head size.
"""

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from domainwright.models.flat import chain
from domainwright.models.float32 import at_once, scaled_dot_product
from domainwright.models.segments import Attention, can_attend, segments_of

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
    without_rows: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer.

    Args:
        query: (B, H, T, h); key, value: (B, K, S, h).
        attention_mask: boolean (B, 1, T, S), True where a query may look; None is causal.
        document_bounds: first token of each document and the total, on a flat batch (B = 1).
        document_parents: the document that each one continues, as in `Flat`.
        without_rows: leave out the keys and values that adapters add.

    Rows of adapters come from the module's `extra_rows`. A gate g on them multiplies λ, the share
    of attention that they take from the text: (1 − g λ) A + g λ Ap. With A' = (1 − λ) A + λ Ap,
    the attention that sees both, that is A + g (A' − A): only attention is asked for, and where
    g is zero the result is A, bit for bit.

    Returns:
        (B, T, H, h) and None in the place of the weights, as transformers expects.
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    documents = document_bounds or (), document_parents
    rest = attention_mask, documents, (scale, sliding_window, softcap, dropout)
    rows_of = None if without_rows else getattr(module, "extra_rows", None)
    extra = [(rows(), span) for rows, span in rows_of()] if rows_of else []
    plain = [pair for pair in extra if len(pair[0]) == 2]
    own = prefixed(query, key, value, plain, *rest) if plain else _bare(query, key, value, *rest)
    out = own
    for group in _gated(extra):
        seen = [((rows[0], rows[1]), span) for rows, span in group]
        both = prefixed(query, key, value, [*plain, *seen], *rest)
        gate_TH = query.new_zeros(query.shape[2], query.shape[1], dtype=torch.float32)
        for rows, span in group:
            gate_TH[span or slice(None)] = rows[2]
        out = out + (gate_TH[..., None] * (both - own)).to(out.dtype)
    return out, None


Settings = tuple[float, int | None, float | None, float]
"""(scale, sliding window, soft cap, dropout)."""
Documents = tuple[tuple[int, ...], tuple[int | None, ...]]
"""(bounds or (), parents)."""


def _bare(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    documents: Documents,
    settings: Settings,
) -> Tensor:
    """Attention (B, T, H, h) without rows of adapters."""
    (bounds, parents), (scale, window, softcap, dropout) = documents, settings
    if bounds and softcap is None and not dropout:
        rows = [x[0].transpose(0, 1) for x in (query, key, value)]
        # A cache that already holds keys makes them longer than the batch.
        if can_attend(*rows) and len(key[0, 0]) == bounds[-1]:
            batch = segments_of(tuple(bounds), tuple(parents))
            native: Tensor = Attention.apply(*rows, batch, scale, window)
            return native[None]
    if len(bounds) > 2:
        lengths = [b - a for a, b in pairwise(bounds)]
        # split, not slices: the gradient of a slice is a zero-filled tensor of the whole batch,
        # one per document; that of a split is one concatenation.
        queries, keys, values = (x.split(lengths, dim=2) for x in (query, key, value))
        parts = []
        for number, q in enumerate(queries):
            seen = chain(parents, number)
            k, v = (_joined([x[i] for i in seen]) for x in (keys, values))
            parts.append(_attend_one(q, k, v, None, scale, window, softcap, dropout))
        return torch.cat(parts, dim=2).transpose(1, 2)
    out = _attend_one(query, key, value, mask, scale, window, softcap, dropout)
    return out.transpose(1, 2)


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
    if softcap is not None or at_once(query, key):
        return _eager(query, key, value, mask, scale, softcap, dropout)
    heads, keys = query.shape[1], key.shape[1]
    if length == 1 and heads != keys and mask is not None and mask.shape[1] == 1:
        # One token a row: the heads that share keys stand in for queries, and nothing is repeated.
        # 2.6 ms against 11.7 a layer, bfloat16.
        grouped = query.unflatten(1, (keys, heads // keys)).squeeze(3)
        out = scaled_dot_product(
            grouped, key, value, attn_mask=mask, dropout_p=dropout, scale=scale
        )
        return out.flatten(1, 2).unsqueeze(2)
    causal = mask is None and length > 1
    if causal and length != total:
        mask, causal = _band(length, total, None, query.device), False
    return scaled_dot_product(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scale,
        is_causal=causal,
        enable_gqa=heads != keys,
    )


Extra = list[tuple[tuple[Tensor, ...], slice | None]]
"""(keys and values (K, P, h) to be seen first, maybe with a gate (H); the rows that see them or
None for all)."""


def _gated(extra: Extra) -> list[Extra]:
    """Those with a gate, in groups of which no two are seen by the same rows."""
    gated: Extra = [(rows, span) for rows, span in extra if len(rows) == 3]
    if any(span is None for _, span in gated):
        return [[pair] for pair in gated]
    return [gated] if gated else []


def prefixed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    extra: Extra,
    mask: Tensor | None,
    documents: Documents,
    settings: Settings,
) -> Tensor:
    """Attention (B, T, H, h) in which every query sees rows before its document's own."""
    bounds, parents = documents
    if mask is None:
        native = _native_behind(query, key, value, extra, documents, settings)
        if native is not None:
            return native
    if len(bounds) < 3:
        bounds = (0, query.shape[2])
        queries, keys, values = [query], [key], [value]
    else:
        lengths = [b - a for a, b in pairwise(bounds)]
        queries, keys, values = ([*x.split(lengths, dim=2)] for x in (query, key, value))
    parts = []
    for number, q in enumerate(queries):
        seen = chain(parents, number)
        k, v = (_joined([x[i] for i in seen]) for x in (keys, values))
        first = [extra[i][0] for i in _seen_by(extra, *bounds[number : number + 2])]
        parts.append(_behind(q, k, v, mask, first, settings))
    return torch.cat(parts, dim=2).transpose(1, 2)


def _seen_by(extra: Extra, start: int, stop: int) -> list[int]:
    """Which of the added rows a document sees."""
    return [
        i
        for i, (_, span) in enumerate(extra)
        if span is None or (span.start <= start and stop <= span.stop)
    ]


def _native_behind(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    extra: Extra,
    documents: Documents,
    settings: Settings,
) -> Tensor | None:
    """The same by the native kernel; None: it does not take these.

    Added rows are documents in front of the batch that the others continue. Nothing asks from
    there, so what stands there for queries is zero, and so is the gradient of what they give.
    """
    (bounds, parents), (scale, window, softcap, dropout) = documents, settings
    rows = [x[0].transpose(0, 1) for x in (query, key, value)]
    # The kernel's window would hide the rows; a batch within it has none.
    within = window is None or (bool(bounds) and window >= bounds[-1])
    fits = bool(bounds) and len(key[0, 0]) == bounds[-1] and within
    if not fits or softcap is not None or dropout or not can_attend(*rows):
        return None
    seen = [tuple(_seen_by(extra, a, b)) for a, b in pairwise(bounds)]
    own_parents = parents or (None,) * len(seen)
    fronts = list(dict.fromkeys(one for one in seen if one))
    count = len(fronts)
    following: list[int | None] = [None] * count
    for sees, parent in zip(seen, own_parents, strict=True):
        if parent is not None and seen[parent] != sees:
            return None
        front = fronts.index(sees) if sees else None
        following.append(front if parent is None else parent + count)
    keys, values = (
        [torch.cat([extra[i][0][side].to(key.dtype) for i in one], dim=1) for one in fronts]
        for side in (0, 1)
    )
    lengths = [x.shape[1] for x in keys] + [b - a for a, b in pairwise(bounds)]
    added = sum(lengths[:count])
    batch = segments_of((0, *accumulate(lengths)), tuple(following))
    whole = [
        functional.pad(rows[0], (0, 0, 0, 0, added, 0)),
        torch.cat([*(x.transpose(0, 1) for x in keys), rows[1]]),
        torch.cat([*(x.transpose(0, 1) for x in values), rows[2]]),
    ]
    out: Tensor = Attention.apply(*whole, batch, scale, None)
    return out[None, added:]


def _behind(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    first: list[tuple[Tensor, ...]],
    settings: Settings,
) -> Tensor:
    """Attention (B, H, T, h) of one document behind keys and values of others."""
    scale, window, softcap, dropout = settings
    if not first:
        return _attend_one(query, key, value, mask, scale, window, softcap, dropout)
    length, total = query.shape[2], key.shape[2]
    # Made here, over the text alone: neither causality nor a window hides the rows.
    band = _band(length, total, window, query.device)
    mask = band if mask is None else mask & band
    for keys, values in first:
        rows = len(key), *keys.shape
        key = torch.cat([keys.to(key.dtype).expand(rows), key], dim=2)
        value = torch.cat([values.to(value.dtype).expand(rows), value], dim=2)
    seen = mask.new_ones(*mask.shape[:3], key.shape[2] - total)
    mask = torch.cat([seen, mask], dim=-1)
    return _attend_one(query, key, value, mask, scale, None, softcap, dropout)


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
    softcap: float | None,
    dropout: float,
) -> Tensor:
    """Attention with all scores written down; Gemma 2 caps them before the softmax."""
    # Heads that share keys stand below each other: nothing is repeated.
    grouped = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    score = (grouped @ key.transpose(-1, -2)).mul_(scale).view(*query.shape[:3], key.shape[2])
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    if mask is None:
        mask = _band(query.shape[2], key.shape[2], None, query.device)
    weight = score.masked_fill_(~mask, float("-inf")).softmax(-1, torch.float32).to(query.dtype)
    weight = functional.dropout(weight, dropout).view(*grouped.shape[:3], key.shape[2])
    return (weight @ value).view(query.shape)


# Absent from transformers' mask table on purpose: then it builds no mask of its own and
# hands through the 4-D mask it is given, or None.
AttentionInterface.register(NAME, attend)
