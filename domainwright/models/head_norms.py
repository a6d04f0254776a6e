"""A norm of every head's queries and keys before they are turned (Qwen 3).

    q̂ = w ⊙ q / sqrt(mean(q²) + eps)        over the h numbers of a head; of keys the same

Dimension key: T tokens, Q outputs of queries, keys and values together, H heads, h head size.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from domainwright.models import kernels

Normed = list[tuple[Tensor, Tensor]]
"""Queries and keys before the norm (T · H, h), and the inverse roots (T · H, 1) of each."""


@dataclass(frozen=True, slots=True)
class HeadNorms:
    query_h: Tensor
    key_h: Tensor
    heads: tuple[int, int]
    """How many there are of queries, and of keys."""
    eps: float

    def forward(self, qkv_TQ: Tensor) -> Normed:
        """Norm the queries and keys in place; what the gradient needs."""
        kept = []
        for weight_h, columns in self._parts():
            raw = qkv_TQ[:, columns].reshape(-1, len(weight_h)).contiguous()
            out, inverse = kernels.rms_norm(raw, weight_h, self.eps)
            qkv_TQ[:, columns] = out.view(len(qkv_TQ), -1)
            kept.append((raw, inverse))
        return kept

    def backward(self, kept: Normed, grad_TQ: Tensor) -> None:
        """The gradient of what was normed, in place of that of what came out."""
        for (weight_h, columns), (raw, inverse) in zip(self._parts(), kept, strict=True):
            pull = grad_TQ[:, columns].reshape(-1, len(weight_h)).contiguous()
            grad = raw.new_zeros(raw.shape)
            kernels.rms_norm_backward(raw, weight_h, inverse, pull, grad)
            grad_TQ[:, columns] = grad.view(len(grad_TQ), -1)

    def _parts(self) -> list[tuple[Tensor, slice]]:
        size = len(self.query_h)
        queries, keys = (n * size for n in self.heads)
        return [(self.query_h, slice(queries)), (self.key_h, slice(queries, queries + keys))]


def head_norms_of(attention: Any, heads: tuple[int, int], eps: float) -> HeadNorms | None:
    """Those of one attention module of transformers; None: it has none."""
    if not hasattr(attention, "q_norm"):
        return None
    return HeadNorms(attention.q_norm.weight, attention.k_norm.weight, heads, eps)
