"""Low-rank changes on frozen linear layers; those that read the same rows as one product.

    out = x Wᵀ + b (+ residual),   columns of member m: += scale_m · (x A_mᵀ) B_mᵀ

The factors' masters are float32; for the products they are cast to the base's dtype, and
the scale goes into B. Gradients of A and B are float32. A change may be counted from where
its factors began, A₀ and B₀; written as the sum of two small products it is exactly zero
there, and the cast to bfloat16 keeps 8 bits of what was learnt, not of where it began:

    B A - B₀ A₀ = (B - B₀) A + B₀ (A - A₀)

Factors that do not learn may stand before those that do, as one product of both ranks.

Dimension key: T tokens, I inputs, O outputs of all members, R ranks of all members.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from domainwright.models import quantised
from domainwright.models.four_bit import Codes
from domainwright.models.kernels import linear
from domainwright.models.points import Linear
from domainwright.models.quantised import Quantised, unpacked


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """out + scale · x Aᵀ Bᵀ: the pattern that has a faster execution than a plain hook."""

    A_RI: nn.Parameter
    B_OR: nn.Parameter
    scale: float
    dropout: float = 0.0
    origin: tuple[Tensor, Tensor] | None = None
    """(A₀, B₀), where the change is counted from them."""
    frozen: tuple[Tensor, Tensor] | None = None
    """(A, B) over the same scale that are part of the change and do not learn."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """(A, B) whose product is the change over scale; what is frozen first, then what learns,
        of twice the rank with an origin."""
        A: Tensor = self.A_RI
        B: Tensor = self.B_OR
        if self.origin is not None:
            A0, B0 = self.origin
            A, B = torch.cat([A, A - A0]), torch.cat([B - B0, B0], dim=1)
        if self.frozen is not None:
            A, B = torch.cat([self.frozen[0], A]), torch.cat([self.frozen[1], B], dim=1)
        return A, B

    def product_OI(self) -> Tensor:
        """The change of the weight, float32."""
        A, B = self.factors()
        return self.scale * (B @ A)

    def gradients(self, grad_A: Tensor, grad_B: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of A and B from those of `factors`."""
        if self.frozen is not None:
            still = len(self.frozen[0])
            grad_A, grad_B = grad_A[still:], grad_B[:, still:]
        if self.origin is None:
            return grad_A, grad_B
        first, second = grad_A.chunk(2)
        return first + second, grad_B.chunk(2, dim=1)[0]

    @property
    def dropping(self) -> bool:
        """Whether inputs are dropped now: only the plain execution does that."""
        return bool(self.dropout) and torch.is_grad_enabled()

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """The plain execution; the oracle of the fused one."""
        if self.dropping:
            x = nn.functional.dropout(x, self.dropout)
        A, B = self.factors()
        change = x.to(A.dtype) @ A.T @ B.T
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
        with torch.no_grad():
            pairs = [change.factors() for _, change in self.on]
            self.A_RI = torch.cat([A for A, _ in pairs]).to(stack.dtype)
            scales = [change.scale for _, change in self.on]
            self.B_OR = [
                (B * scale).to(stack.dtype) for (_, B), scale in zip(pairs, scales, strict=True)
            ]
        ranks = [len(A) for A, _ in pairs]
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
    held: Tensor | tuple[Codes, ...]
    """The weight (O, I), or the codes of each member."""
    bias_O: Tensor | None
    columns: tuple[slice, ...]
    """Outputs of each member."""
    dtype: torch.dtype

    @property
    def weight_OI(self) -> Tensor:
        """From codes it is unpacked anew, and stands until the next weight is."""
        if isinstance(self.held, Tensor):
            return self.held
        return unpacked(self.held, self.dtype)

    def forward(
        self, factors: Sequence[Factors], x_TI: Tensor, residual_TO: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """(outputs (T, O), x Aᵀ (T, R) of each owner for the backward pass)."""
        if isinstance(self.held, Tensor):
            out = linear(x_TI, self.held, self.bias_O, residual_TO)
        else:
            out = quantised.linear(x_TI, self.held, self.bias_O, residual_TO)
        lows = []
        for own in factors:
            low_TR = linear(x_TI[own.rows], own.A_RI, None)
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
                grad_B = (pull_TO[own.rows, columns].T @ low_TR[:, ranks]).float()
                found[change.A_RI], found[change.B_OR] = change.gradients(
                    grad_A[ranks], grad_B.mul_(change.scale)
                )


def stacked(linears: Sequence[Linear]) -> Stack:
    """One weight for several layers; their own become views of it, bit for bit; biases too.

    Codes stay where they are: each layer's are unpacked into its part of the weight.
    """
    modules: list[Any] = [x.module for x in linears]
    ends = [0, *accumulate(x.outputs for x in linears)]
    columns = tuple(slice(a, b) for a, b in pairwise(ends))
    codes = tuple(m.codes for m in modules if isinstance(m, Quantised))
    biases: list[Tensor | None] = [m.bias for m in modules]
    bias = biases[0] if len(modules) == 1 else _one_bias(biases, columns)
    if codes:
        return Stack(tuple(linears), codes, bias, columns, modules[0].dtype)
    weight: Tensor = modules[0].weight.detach()
    if len(modules) > 1:
        weight = torch.cat([m.weight.detach() for m in modules])
        for module, part in zip(modules, columns, strict=True):
            module.weight.data = weight[part]
    return Stack(tuple(linears), weight, bias, columns, weight.dtype)


def _one_bias(biases: Sequence[Tensor | None], columns: Sequence[slice]) -> Tensor | None:
    """All biases in one, zeros for layers without; None where no layer has any."""
    like = next((b for b in biases if b is not None), None)
    if like is None:
        return None
    bias = like.new_zeros(columns[-1].stop)
    for own, part in zip(biases, columns, strict=True):
        if own is not None:
            bias[part] = own.detach()
            own.data = bias[part]
    return bias


def frozen(linear: Linear) -> bool:
    """Whether no adapter trains the layer's own weights now: the fused node gives them nothing."""
    module: Any = linear.module
    own = (None if isinstance(module, Quantised) else module.weight, module.bias)
    return not any(isinstance(p, Tensor) and p.requires_grad for p in own)


def adapted(linear: Linear, change: LowRank, x: Tensor, codes: Codes | None = None) -> Tensor:
    """W x + b + scale · B A x of one layer as one node of the graph. x: (…, I).

    Args:
        codes: what stands in for the layer's own weight now.
    """
    module: Any = linear.module
    if codes is None and isinstance(module, Quantised):
        codes = module.codes
    held = linear.weight_OI if codes is None else (codes,)
    stack = Stack((linear,), held, module.bias, (slice(0, linear.outputs),), x.dtype)
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
