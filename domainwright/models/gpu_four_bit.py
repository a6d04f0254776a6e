"""bitsandbytes' kernels for 4-bit codes, on GPUs where that package is installed.

    dequantised(codes)          dequantised(codes) x + b, for few rows without the weight itself

Without it, and for layers whose rows are no whole blocks, PyTorch unpacks the codes
(`four_bit`). It is imported when the first layer on a GPU computes: that takes seconds.

Source: bitsandbytes 0.50.2, `_ops.py` (what the operations take) and `backends/cuda/ops.py`.

Dimension key: O outputs, I inputs, J blocks.
"""

import functools
import importlib
import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from domainwright.models.four_bit import Codes

DEVICES = ("cuda",)
"""Where the kernels are taken."""


@functools.cache
def _operations() -> Any:
    """`torch.ops.bitsandbytes`, or None: not installed, or older than the ones used here."""
    if find_spec("bitsandbytes") is None:
        return None
    importlib.import_module("bitsandbytes")
    found = torch.ops.bitsandbytes
    return found if hasattr(found, "gemm_4bit") and hasattr(found, "dequantize_4bit") else None


def usable(device: torch.device) -> bool:
    """Whether layers on the device compute with these kernels."""
    return device.type in DEVICES and _operations() is not None


def dequantised(codes: "Codes", scales_J: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """The weight (O, I); scales in float32."""
    # As one row: told of several, its kernel for CPUs begins a block with each of them.
    flat = (math.prod(codes.shape),)
    out: Tensor = _operations().dequantize_4bit(
        codes.packed.view(-1, 1), scales_J, block, codes.kind, flat, dtype
    )
    return out.view(codes.shape)


def fits(codes: "Codes", block: int) -> bool:
    """Whether rows are whole blocks, which the product asks for."""
    return codes.shape[1] % block == 0


def product(
    x: Tensor, codes: "Codes", bias_O: Tensor | None, block: int, map_256: Tensor
) -> Tensor:
    """dequantised(codes) x + b, in the dtype of x."""
    nested: dict[str, Tensor | None] = {}
    scales_J = codes.absmax_J
    if codes.nested is not None:
        scales_J = codes.nested
        nested = {
            "absmax_8bit": codes.absmax_J,
            "absmax_code": map_256,
            "absmax_offset": codes.offset,
        }
    out: Tensor = _operations().gemm_4bit(
        x, codes.packed.view(-1, 1), codes.shape, scales_J, block, codes.kind, bias=bias_O, **nested
    )
    return out
