"""One more token for every row of a batch that is being answered, through the fused trunk.

Dimension key: B rows, H query heads, K key/value heads, S columns of the cache, h head size.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from domainwright.models import kernels
from domainwright.models.fused import Trunk
from domainwright.models.kernels import address, fast
from domainwright.models.segments import longs

Buffers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values (B, K, S, h) of every layer."""


@torch.no_grad()
def read_one(
    trunk: Trunk, ids_B: Tensor, positions_B: Tensor, begins_B: Tensor, column: int, cache: Buffers
) -> Tensor | None:
    """Final hidden states (B, D) of one token a row; None where only the plain path can do it.

    The token's keys and values are written into `column` of the cache.

    Args:
        begins_B: first column of each row; it sees from there to `column`.
    """
    if not fast(cache[0][0], trunk.size) or trunk.size % 32:
        return None
    now = trunk.present()
    if now is None:
        return None
    cosine, sine = trunk.angles(positions_B)
    states = trunk.backbone.embed_tokens(ids_B)
    turned = trunk.heads + trunk.key_heads
    for block, changes, (keys, values) in zip(now.blocks, now.changes, cache, strict=True):
        normal, _ = kernels.rms_norm(states, block.first_norm_D, trunk.eps)
        qkv, _ = block.attention.forward(changes[0], normal)
        if block.head_norms:
            block.head_norms.forward(qkv)
        kernels.rotate(qkv, turned, cosine, sine, 1.0)
        _, key, value = trunk.parts(qkv)
        keys[:, :, column], values[:, :, column] = key, value
        out = attend(trunk, qkv, keys, values, begins_B, column, block.window)
        middle, _ = block.output.forward(changes[1], out, states)
        normal, _ = kernels.rms_norm(middle, block.second_norm_D, trunk.eps)
        gate_up, _ = block.gate_up.forward(changes[2], normal)
        states, _ = block.down.forward(changes[3], kernels.swiglu(gate_up), middle)
    return kernels.rms_norm(states, trunk.norm_D, trunk.eps)[0]


def attend(
    trunk: Trunk,
    qkv_BQ: Tensor,
    keys: Tensor,
    values: Tensor,
    begins_B: Tensor,
    column: int,
    window: Any,
) -> Tensor:
    """(B, H · h)."""
    rows, size = len(qkv_BQ), trunk.size
    out = qkv_BQ.new_empty(rows, trunk.heads * size)
    begins = begins_B.contiguous()
    fast(qkv_BQ).dw_attention_decode(
        longs([rows, trunk.heads, trunk.key_heads, size, window or 0, column]),
        longs([qkv_BQ.stride(0), *keys.stride()[:3]]),
        ctypes.c_float(trunk.scale),
        address(begins),
        address(qkv_BQ),
        address(keys),
        address(values),
        address(out),
    )
    return out
