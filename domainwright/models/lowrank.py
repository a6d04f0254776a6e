"""Low-rank changes on frozen linear layers; those that read the same rows as one product.

    out = x Wᵀ + b (+ residual),   columns of member m: += scale_m · (x A_mᵀ) B_mᵀ

The factors' masters are float32; for the products they are cast to the base's dtype, and
the scale goes into B. Gradients of A and B are float32.

Dimension key: T tokens, I inputs, O outputs of all members, R ranks of all members.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from domainwright.models.points import Linear


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """out + scale · x Aᵀ Bᵀ: the pattern that has a faster execution than a plain hook."""

    A_RI: nn.Parameter
    B_OR: nn.Parameter
    scale: float
    dropout: float = 0.0

    @property
    def dropping(self) -> bool:
        """Whether inputs are dropped now: only the plain execution does that."""
        return bool(self.dropout) and torch.is_grad_enabled()

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """The plain execution; the oracle of the fused one."""
        if self.dropping:
            x = nn.functional.dropout(x, self.dropout)
        change = x.to(self.A_RI.dtype) @ self.A_RI.T @ self.B_OR.T
        return out + (self.scale * change).to(out.dtype)


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


def frozen(linear: Linear) -> bool:
    """Whether no adapter trains the layer's own weights now: the fused node gives them nothing."""
    own = (linear.module.weight, linear.module.bias)
    return not any(isinstance(p, Tensor) and p.requires_grad for p in own)


def adapted(linear: Linear, change: LowRank, x: Tensor) -> Tensor:
    """W x + b + scale · B A x of one layer as one node of the graph. x: (…, I)."""
    bias: Tensor | None = linear.module.bias  # type: ignore[assignment]
    stack = Stack((linear,), linear.weight_OI, bias, (slice(0, linear.outputs),))
    out: Tensor = _Adapted.apply(x, stack, change, change.A_RI, change.B_OR)
    return out


class _Adapted(torch.autograd.Function):
    """Saves x and A x only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, stack: Stack, change: LowRank, A_RI: Tensor, B_OR: Tensor
    ) -> Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        factors = [Factors(stack, [change])]
        out_TO, lows = stack.forward(factors, x_TI)
        ctx.save_for_backward(x_TI, *lows)
        ctx.stack, ctx.change, ctx.factors, ctx.shape = stack, change, factors, x.shape
        return out_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, *lows = ctx.saved_tensors
        grad_TO = grad.reshape(-1, grad.shape[-1])
        wanted = ctx.needs_input_grad[0]
        grad_TI, pulls = ctx.stack.backward_input(ctx.factors, grad_TO, needed=wanted)
        found: dict[nn.Parameter, Tensor] = {}
        ctx.stack.backward_factors(ctx.factors, x_TI, lows, pulls, grad_TO, found)
        change = ctx.change
        grad_x = grad_TI.view(ctx.shape) if wanted else None
        return grad_x, None, None, found[change.A_RI], found[change.B_OR]
