"""Linear layers that compute with 4-bit codes.

    y = dequantised(codes) x + b        gradients flow to x and b, never to the codes

The weight is there only while it is multiplied, forward and once more backward: nothing of its
size waits in the graph.

Dimension key: O outputs, I inputs.
"""

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from domainwright.models import gpu_four_bit, kernels
from domainwright.models.four_bit import BLOCK, Codes, dynamic_map_on
from domainwright.models.kernels import address


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


def linear(
    x_TI: Tensor, codes: Sequence[Codes], bias_O: Tensor | None, residual_TO: Tensor | None = None
) -> Tensor:
    """x Wᵀ + b + residual of several layers side by side, without a gradient to x.

    Few rows pass the weights as they are unpacked, and no weight is written down.
    """
    whole = all(o % kernels.OUTPUTS == 0 and i % BLOCK == 0 for o, i in (x.shape for x in codes))
    library = kernels.for_few_rows(x_TI) if whole else None
    if library is None:
        return kernels.linear(x_TI, unpacked(codes, x_TI.dtype), bias_O, residual_TO)
    rows, inputs = x_TI.shape
    out_TO = x_TI.new_empty(rows, sum(x.shape[0] for x in codes))
    past_TO = None if residual_TO is None else residual_TO.contiguous()
    done = 0
    for one in codes:
        library.dw_few_rows_four_bit(
            ctypes.c_long(rows),
            ctypes.c_long(inputs),
            ctypes.c_long(one.shape[0]),
            address(x_TI),
            ctypes.c_long(x_TI.stride(0)),
            *one.arguments(),
            address(None if bias_O is None else bias_O[done:]),
            address(None if past_TO is None else past_TO[:, done:]),
            address(out_TO[:, done:]),
            ctypes.c_long(out_TO.shape[1]),
        )
        done += one.shape[0]
    return out_TO


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
        out_TO = linear(x.reshape(-1, x.shape[-1]), [codes], bias_O)
        return out_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wants_x, _, wants_bias = ctx.needs_input_grad
        grad_x = grad @ unpacked([ctx.codes], grad.dtype) if wants_x else None
        return grad_x, None, grad.flatten(0, -2).sum(0) if wants_bias else None
