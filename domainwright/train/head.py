"""The output head under a loss: what it computes with, and the gradient of what of it learns.

    logits = h Wᵀ + b         gradient of W: Σ over blocks of  pullᵀ h,  of b: Σ pull

A block of logits is gone when the next one is made, so each adds its part at once, in float32.

Dimension key: B rows of a block, D hidden size, V vocabulary, n learned rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from domainwright.models.base import Base
from domainwright.models.token_rows import TokenRows


class Head(NamedTuple):
    """What an operation takes of the head; its first three have gradients."""

    weight_VD: Tensor
    bias_V: Tensor | None
    values_nD: Tensor | None
    """Rows of a tied head that learn by themselves."""
    rows: TokenRows | None


def head_of(base: Base) -> Head:
    """The head as it is read now, where `plain_head` holds."""
    module, rows = base.model.get_output_embeddings(), base.hooks.head_rows
    weight, bias = module.weight, getattr(module, "bias", None)
    if rows is not None:
        # They have a gradient of their own, far smaller than the weight's.
        return Head(weight.detach(), bias, rows.values_nD, rows)
    if not torch.is_grad_enabled():
        # Inside an operation nobody can ask any more whether a gradient is wanted.
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    return Head(weight, bias, None, None)


class Pulls:
    """Gradients of the head's learned parts, summed block after block."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self._sums: list[Tensor | None] = [
            torch.zeros_like(part, dtype=torch.float32)
            if part is not None and part.requires_grad
            else None
            for part in head[:3]
        ]

    @property
    def wanted(self) -> bool:
        return any(part is not None for part in self._sums)

    def add(self, pull_BV: Tensor, states_BD: Tensor, count: int) -> None:
        """Add what one block pulls.

        Args:
            count: rows of it that are no filling; the states of those that are are zero.
        """
        weight_VD, bias_V, values_nD = self._sums
        if weight_VD is not None:
            weight_VD += pull_BV.T @ states_BD
        if bias_V is not None:
            bias_V += pull_BV[:count].sum(0, dtype=torch.float32)
        if values_nD is not None and self.head.rows is not None:
            values_nD += self.head.rows.pulled(pull_BV[:count], states_BD[:count])

    def gradients(self, scale: Tensor) -> list[Tensor | None]:
        """Those of the first three parts, times `scale`, in their own dtypes."""
        # Rounded as they are scaled: a head's weight is too large for a copy in between.
        return [
            None
            if total is None or part is None
            else torch.mul(total, scale, out=torch.empty_like(part))
            for total, part in zip(self._sums, self.head[:3], strict=True)
        ]
