"""Linear layers that compute with 4-bit codes.

    y = dequantised(codes) x + b        gradients flow to x and b, never to the codes

The weight is there only while it is multiplied, forward and once more backward: nothing of its
size waits in the graph.

Dimension key: O outputs, I inputs.
"""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from domainwright.models import gpu_four_bit
from domainwright.models.four_bit import BLOCK, Codes, dynamic_map_on


class Quantised(nn.Module):
    """A frozen linear layer whose only copy of its weight is its codes."""

    def __init__(self, codes: Codes, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.kind, self.shape, self.dtype = codes.kind, codes.shape, dtype
        self.transposed = False
        """Whether the weight it was made from is stored (I, O), as GPT-2's Conv1D does."""
        self.register_buffer("packed", codes.packed)
        self.register_buffer("absmax", codes.absmax_J)
        self.register_buffer("nested", codes.nested)
        self.register_buffer("offset", codes.offset)
        self.bias = bias

    @property
    def codes(self) -> Codes:
        held = (self.packed, self.absmax, self.nested, self.offset)
        return Codes(self.kind, self.shape, *held)  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor:
        """Made anew at every reading, as the layer it was made from stores it."""
        weight_OI = self.codes.dequantised(self.dtype)
        return weight_OI.T if self.transposed else weight_OI

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.codes, self.bias)


class _Buffers(threading.local):
    """One buffer per device and dtype, in which weights are unpacked one after the other."""

    def __init__(self) -> None:
        self.held: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def of(self, numbers: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        buffer = self.held.get((device, dtype))
        if buffer is None or len(buffer) < numbers:
            buffer = self.held[device, dtype] = torch.empty(numbers, dtype=dtype, device=device)
        return buffer[:numbers]


_BUFFERS = _Buffers()


def unpacked(codes: Sequence[Codes], dtype: torch.dtype) -> Tensor:
    """Weights (O, I) of several layers as one, in a buffer that the next call writes over."""
    outputs, inputs = sum(x.shape[0] for x in codes), codes[0].shape[1]
    weight_OI = _BUFFERS.of(outputs * inputs, codes[0].packed.device, dtype).view(outputs, inputs)
    done = 0
    for one in codes:
        one.dequantised(dtype, out=weight_OI[done : done + one.shape[0]])
        done += one.shape[0]
    return weight_OI


def product(x: Tensor, codes: Codes, bias_O: Tensor | None) -> Tensor:
    """dequantised(codes) x + b, in the dtype of x."""
    out: Tensor = _Product.apply(x, codes, bias_O)
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Codes, bias_O: Tensor | None) -> Tensor:
        ctx.codes = codes
        if gpu_four_bit.usable(x.device) and gpu_four_bit.fits(codes, BLOCK):
            map_256 = dynamic_map_on(x.device)
            return gpu_four_bit.product(x, codes, bias_O, BLOCK, map_256)
        return functional.linear(x, unpacked([codes], x.dtype), bias_O)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wants_x, _, wants_bias = ctx.needs_input_grad
        grad_x = grad @ unpacked([ctx.codes], grad.dtype) if wants_x else None
        return grad_x, None, grad.flatten(0, -2).sum(0) if wants_bias else None
