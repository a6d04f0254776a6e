"""The element-wise steps of a transformer block, each in one pass over its rows.

Every function has two executions: plain PyTorch, which runs anywhere and is the oracle, and
the kernel in `native/`, taken for bfloat16 on a CPU that has it. Both give the same up to
the rounding of bfloat16; sums are float32 in both.

Dimension key: T tokens, D hidden size, F feed-forward size, H heads, h head size, V vocabulary.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from domainwright.models import native

LANES = 16
FEW = 48
"""Rows up to which `linear` reads the weight as it lies: 1 row 1.7 to 2.1 times as fast as oneDNN,
8 rows 1.6 to 2, 32 rows 1.2 to 1.5, 128 rows no faster (LOG.md, 2026-11-23)."""
OUTPUTS = 4
"""How many of them the native kernels for few rows make at once."""


def fast(x: Tensor, *sizes: int) -> Any:
    """The native library if it takes `x` and rows of these sizes, else None."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or any(n % LANES for n in sizes):
        return None
    return native.library()


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(0 if tensor is None else tensor.data_ptr())


def for_few_rows(x_TI: Tensor) -> Any:
    """The native library if these are few rows that need no gradient, else None."""
    learned = torch.is_grad_enabled() and x_TI.requires_grad
    taken = 0 < len(x_TI) <= FEW and x_TI.stride(1) == 1 and not learned
    return fast(x_TI) if taken else None


def reads_as_it_lies(x_TI: Tensor, weight_OI: Tensor) -> Any:
    """The native library if `linear` is its own, else None."""
    outputs, inputs = weight_OI.shape
    learned = torch.is_grad_enabled() and weight_OI.requires_grad
    lies = weight_OI.is_contiguous() and weight_OI.dtype == x_TI.dtype
    whole = inputs % (2 * LANES) == 0 and outputs % OUTPUTS == 0
    return for_few_rows(x_TI) if whole and lies and not learned else None


def linear(
    x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, residual_TO: Tensor | None = None
) -> Tensor:
    """x Wᵀ + b + residual; without a gradient where there are few rows."""
    if kernels := reads_as_it_lies(x_TI, weight_OI):
        rows, outputs = len(x_TI), len(weight_OI)
        out = x_TI.new_empty(rows, outputs)
        past = None if residual_TO is None else residual_TO.contiguous()
        kernels.dw_few_rows(
            ctypes.c_long(rows),
            ctypes.c_long(x_TI.shape[1]),
            ctypes.c_long(outputs),
            address(x_TI),
            ctypes.c_long(x_TI.stride(0)),
            address(weight_OI),
            address(bias_O),
            address(past),
            address(out),
        )
        return out
    if residual_TO is None:
        return functional.linear(x_TI, weight_OI, bias_O)
    out = torch.addmm(residual_TO, x_TI, weight_OI.T)
    return out if bias_O is None else out.add_(bias_O)


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(weight · x / sqrt(mean(x²) + eps), the inverse root (T, 1) in float32)."""
    if kernels := fast(x_TD, x_TD.shape[1]):
        rows, width = x_TD.shape
        out, inverse = torch.empty_like(x_TD), x_TD.new_empty(rows, 1, dtype=torch.float32)
        kernels.dw_rms_norm(
            ctypes.c_long(rows),
            ctypes.c_long(width),
            address(x_TD),
            address(weight_D),
            ctypes.c_float(eps),
            address(out),
            address(inverse),
        )
        return out, inverse
    wide = x_TD.float()
    inverse = torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)
    return (weight_D.float() * (wide * inverse)).to(x_TD.dtype), inverse


def rms_norm_backward(
    x_TD: Tensor, weight_D: Tensor, inverse_T1: Tensor, pull_TD: Tensor, grad_TD: Tensor
) -> None:
    """Add the gradient with respect to x, in place, to what already reaches it.

    grad += inverse · (g - x̂ · mean(g · x̂)),  g = weight · pull,  x̂ = x · inverse
    """
    if kernels := fast(x_TD, x_TD.shape[1]):
        rows, width = x_TD.shape
        kernels.dw_rms_norm_backward(
            ctypes.c_long(rows),
            ctypes.c_long(width),
            address(x_TD),
            address(weight_D),
            address(inverse_T1),
            address(pull_TD),
            address(grad_TD),
        )
        return
    above = weight_D.float() * pull_TD.float()
    normal = x_TD.float() * inverse_T1
    change = inverse_T1 * (above - normal * (above * normal).mean(1, keepdim=True))
    grad_TD.copy_(grad_TD.float() + change)


def rotate(x_TW: Tensor, heads: int, cosine_Th: Tensor, sine_Th: Tensor, direction: float) -> None:
    """Rotary positions on the first `heads` heads of every row, in place.

    (a, b) -> (a cos - b sin, b cos + a sin) on the halves of a head; direction -1 undoes it,
    which is also its gradient.

    Args:
        cosine_Th, sine_Th: float32.
    """
    rows, size = cosine_Th.shape
    if kernels := fast(x_TW, size // 2):
        kernels.dw_rotate(
            ctypes.c_long(rows),
            ctypes.c_long(x_TW.stride(0)),
            ctypes.c_long(heads),
            ctypes.c_long(size),
            address(cosine_Th),
            address(sine_Th),
            ctypes.c_float(direction),
            address(x_TW),
        )
        return
    part = x_TW[:, : heads * size].unflatten(1, (heads, size))
    low, high = part.float().chunk(2, dim=-1)
    cosine, sine = (x[:, None, : size // 2] for x in (cosine_Th, direction * sine_Th))
    part.copy_(torch.cat([low * cosine - high * sine, high * cosine + low * sine], dim=-1))


def swiglu(gate_up_TG: Tensor) -> Tensor:
    """silu(gate) · up, with gate and up side by side in (T, 2F)."""
    rows, width = gate_up_TG.shape
    if kernels := fast(gate_up_TG, width // 2):
        out = gate_up_TG.new_empty(rows, width // 2)
        kernels.dw_swiglu(
            ctypes.c_long(rows), ctypes.c_long(width // 2), address(gate_up_TG), address(out)
        )
        return out
    gate, up = gate_up_TG.float().chunk(2, dim=1)
    return (functional.silu(gate) * up).to(gate_up_TG.dtype)


def swiglu_backward(gate_up_TG: Tensor, pull_TF: Tensor) -> None:
    """In place: gate_up becomes its gradient, and pull becomes silu(gate) · up once more."""
    rows, width = gate_up_TG.shape
    if kernels := fast(gate_up_TG, width // 2):
        kernels.dw_swiglu_backward(
            ctypes.c_long(rows), ctypes.c_long(width // 2), address(gate_up_TG), address(pull_TF)
        )
        return
    gate, up = gate_up_TG.float().chunk(2, dim=1)
    pull, share = pull_TF.float(), torch.sigmoid(gate)
    silu = gate * share
    slope = share * (1 + gate * (1 - share))
    product = silu * up
    # In float32 these are the given tensors themselves: read all before anything is written.
    gate_up_TG.copy_(torch.cat([pull * up * slope, pull * silu], dim=1))
    pull_TF.copy_(product)


def cross_entropy(
    logits_NV: Tensor, labels_N: Tensor, *, gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """(-log softmax(logits)[label] in float32, index of the largest logit), row by row.

    With `gradient`, the logits become softmax - onehot, in place.
    """
    rows, width = logits_NV.shape
    if kernels := fast(logits_NV):
        loss = torch.empty(rows)
        best = torch.empty(rows, dtype=torch.long)
        labels = labels_N.contiguous()  # held by name: an address does not keep a tensor alive
        kernels.dw_cross_entropy(
            ctypes.c_long(rows),
            ctypes.c_long(width),
            address(logits_NV),
            address(labels),
            address(loss),
            address(best),
            ctypes.c_long(gradient),
        )
        return loss, best
    wide = logits_NV.float()
    labels = labels_N[:, None]
    # Not logsumexp: its exp is not vectorised on a CPU, and takes as long as the head's product.
    logs = wide.log_softmax(1)
    loss, best = -logs.gather(1, labels)[:, 0], wide.argmax(1)
    if gradient:
        logits_NV.copy_(logs.exp_().scatter_add_(1, labels, -torch.ones_like(loss[:, None])))
    return loss, best


def largest(logits_NV: Tensor) -> Tensor:
    """Index (N,) of each row's largest logit, the first of equals."""
    if fast(logits_NV):
        # PyTorch's argmax of bfloat16 takes 15 times as long as the whole loss.
        return cross_entropy(logits_NV, torch.zeros(len(logits_NV), dtype=torch.long))[1]
    return logits_NV.argmax(1)
