"""Frozen linear layers that read the same rows, stacked into one product, with low-rank changes.

    out = x Wᵀ + b (+ residual),   columns of member m: += scale_m · (x A_mᵀ) B_mᵀ

The factors' masters are float32; for the products they are cast to the base's dtype, and
the scale goes into B. Gradients of A and B are float32.

Dimension key: T tokens, I inputs, O outputs of all members, R ranks of all members.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from domainwright.models.hooks import Linear, LowRank


class Factors:
    """One owner's low-rank changes on the members of one stack, cast for this pass."""

    def __init__(
        self, stack: "Stack", members: Sequence[LowRank | None], rows: slice | None = None
    ) -> None:
        self.rows = rows or slice(None)
        self.on = [
            (columns, change)
            for columns, change in zip(stack.columns, members, strict=True)
            if change
        ]
        dtype = stack.weight_OI.dtype
        with torch.no_grad():
            self.A_RI = torch.cat([change.A_RI for _, change in self.on]).to(dtype)
            self.B_OR = [(change.B_OR * change.scale).to(dtype) for _, change in self.on]
        ranks = [len(change.A_RI) for _, change in self.on]
        self.ranks = [slice(sum(ranks[:i]), sum(ranks[: i + 1])) for i in range(len(ranks))]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for _, change in self.on for p in (change.A_RI, change.B_OR)]

    def on_rows(self, rows: slice) -> "Factors":
        """The same changes on other rows."""
        moved = copy(self)
        moved.rows = rows
        return moved


@dataclass(frozen=True, slots=True)
class Stack:
    linears: tuple[Linear, ...]
    weight_OI: Tensor
    bias_O: Tensor | None
    columns: tuple[slice, ...]
    """Outputs of each member."""

    def forward(
        self, factors: Sequence[Factors], x_TI: Tensor, residual_TO: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """(outputs (T, O), x Aᵀ (T, R) of each owner for the backward pass)."""
        if residual_TO is None:
            out = functional.linear(x_TI, self.weight_OI, self.bias_O)
        else:
            out = torch.addmm(residual_TO, x_TI, self.weight_OI.T)
            if self.bias_O is not None:
                out += self.bias_O
        lows = []
        for own in factors:
            low_TR = x_TI[own.rows] @ own.A_RI.T
            for (columns, _), ranks, B in zip(own.on, own.ranks, own.B_OR, strict=True):
                out[own.rows, columns].addmm_(low_TR[:, ranks], B.T)
            lows.append(low_TR)
        return out, lows

    def backward_input(
        self, factors: Sequence[Factors], pull_TO: Tensor, *, needed: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """(gradient of the input, unset unless needed; pull · B (T, R) of each owner)."""
        out = pull_TO @ self.weight_OI if needed else pull_TO.new_empty(0)
        lows = []
        for own in factors:
            pulls = [
                pull_TO[own.rows, columns] @ B
                for (columns, _), B in zip(own.on, own.B_OR, strict=True)
            ]
            low_TR = pulls[0] if len(pulls) == 1 else torch.cat(pulls, dim=1)
            if needed:
                out[own.rows].addmm_(low_TR, own.A_RI)
            lows.append(low_TR)
        return out, lows

    @staticmethod
    def backward_factors(
        factors: Sequence[Factors],
        x_TI: Tensor,
        lows: Sequence[Tensor],
        pull_lows: Sequence[Tensor],
        pull_TO: Tensor,
        found: dict[nn.Parameter, Tensor],
    ) -> None:
        """Put the gradients of A and B into `found`."""
        for own, low_TR, pull_low_TR in zip(factors, lows, pull_lows, strict=True):
            grad_A = (pull_low_TR.T @ x_TI[own.rows]).float()
            for (columns, change), ranks in zip(own.on, own.ranks, strict=True):
                found[change.A_RI] = grad_A[ranks]
                grad_B = (pull_TO[own.rows, columns].T @ low_TR[:, ranks]).float()
                found[change.B_OR] = grad_B.mul_(change.scale)


def stacked(linears: Sequence[Linear]) -> Stack:
    """One weight for several layers; their own become views of it, bit for bit; biases too."""
    weights: list[Tensor] = [x.module.weight.detach() for x in linears]  # type: ignore[operator]
    biases: list[Tensor | None] = [x.module.bias for x in linears]  # type: ignore[misc]
    ends = [0, *accumulate(x.outputs for x in linears)]
    columns = tuple(slice(a, b) for a, b in pairwise(ends))
    if len(linears) == 1:
        return Stack(tuple(linears), weights[0], biases[0], columns)
    weight = torch.cat(weights)
    for linear, part in zip(linears, columns, strict=True):
        linear.module.weight.data = weight[part]
    bias = None
    if any(b is not None for b in biases):
        made = zip(linears, biases, strict=True)
        bias = torch.cat([weight.new_zeros(x.outputs) if b is None else b for x, b in made])
        for b, part in zip(biases, columns, strict=True):
            if b is not None:
                b.data = bias[part]
    return Stack(tuple(linears), weight, bias, columns)
