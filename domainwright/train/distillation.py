"""The loss of a student that also imitates a teacher's probabilities.

    loss   (1 - w) · -log p(label)  +  w · T² · KL(q ‖ p_T)          p_T = softmax(z / T)
    KL     Σ_K q_i log(q_i / p_i)  +  q_r log(q_r / p_r)

Of the teacher's q the K likeliest tokens are known, and q_r, the sum of all others; p_r is the
student's sum over those others. That is the divergence of the two distributions once all tokens
beyond the K are counted as one: exact for what is known, never above the divergence over the
whole vocabulary, and equal to it where all tokens are kept. Its gradient is

    ∂(T² KL)/∂z = T (p - q̂)      q̂ = q_i on the K, and q_r p_j / p_r beyond them

so the unknown tail is taken to be shared out as the student shares out its own. T² keeps the
gradient's size while T grows.

Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.
Dimension key: N supervised tokens, K kept tokens, V vocabulary.
"""

import ctypes
import math
from typing import Any

import torch
from torch import Tensor

from domainwright.models.kernels import address, cross_entropy, fast
from domainwright.models.lesson import Lesson

ROWS = 16
"""At a time: the eight passes over 16 x 49,152 numbers stay in a cache."""


def blended(
    logits_NV: Tensor, labels_N: Tensor, lesson: Lesson, *, gradient: bool = False
) -> Tensor:
    """The loss (N) in float32, row by row.

    With `gradient`, the logits become the loss's gradient with respect to them, in place.
    """
    if kernels := fast(logits_NV):
        return _natively(kernels, logits_NV, labels_N, lesson, gradient)
    parts = [slice(n, n + ROWS) for n in range(0, len(logits_NV), ROWS)] or [slice(0)]
    losses = [_blended(logits_NV[x], labels_N[x], lesson.at(x), gradient) for x in parts]
    return torch.cat(losses)


def _natively(
    kernels: Any, logits_NV: Tensor, labels_N: Tensor, lesson: Lesson, gradient: bool
) -> Tensor:
    rows, width = logits_NV.shape
    losses_N = torch.empty(rows)
    # Held by name: an address does not keep a tensor alive.
    labels, ids = labels_N.contiguous(), lesson.ids_NK.int().contiguous()
    logs, rest = lesson.logs_NK.contiguous(), lesson.rest_N.contiguous()
    kernels.dw_imitate(
        *(ctypes.c_long(n) for n in (rows, width, ids.shape[1])),
        *(address(x) for x in (logits_NV, labels, ids, logs, rest)),
        ctypes.c_float(lesson.weight),
        ctypes.c_float(lesson.temperature),
        address(losses_N),
        ctypes.c_long(gradient),
    )
    return losses_N


def _blended(logits_NV: Tensor, labels_N: Tensor, lesson: Lesson, gradient: bool) -> Tensor:
    weight, temperature = lesson.weight, lesson.temperature
    ids_NK = lesson.ids_NK.long()
    logs_NV = (logits_NV.float() / temperature).log_softmax(1)
    mine_NK = logs_NV.gather(1, ids_NK)
    mine_rest_N = logs_NV.scatter(1, ids_NK, -math.inf).logsumexp(1)
    # Where all tokens are kept neither has a rest, and -inf - -inf is no number.
    has_rest_N = lesson.rest_N > -math.inf
    apart_N = torch.where(has_rest_N, lesson.rest_N - mine_rest_N, 0.0)
    shares_NK = lesson.logs_NK.exp()
    apart = (shares_NK * (lesson.logs_NK - mine_NK)).sum(1) + lesson.rest_N.exp() * apart_N
    loss = weight * temperature**2 * apart
    if weight < 1:  # else the labels do not count
        loss += (1 - weight) * cross_entropy(logits_NV, labels_N, gradient=gradient)[0]
    if gradient:
        shift_N = torch.where(has_rest_N, apart_N, -math.inf)
        # In logarithms: q_r / p_r alone may be beyond any number while p_j is below all.
        wanted_NV = (logs_NV + shift_N[:, None]).exp_().scatter_(1, ids_NK, shares_NK)
        pull_NV = logs_NV.exp_().sub_(wanted_NV)
        # Zero times what is no number is no number.
        own_NV = logits_NV.mul_(1 - weight) if weight < 1 else logits_NV.zero_()
        own_NV.add_(pull_NV, alpha=weight * temperature)
    return loss


class BlendedLoss(torch.autograd.Function):
    """The summed loss of logits whose own gradient is wanted, as where the head is trained."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, labels_N: Tensor, lesson: Lesson) -> Tensor:
        gradient_NV = logits_NV.clone()
        loss = blended(gradient_NV, labels_N, lesson, gradient=True).sum()
        ctx.save_for_backward(gradient_NV)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_NV,) = ctx.saved_tensors
        return gradient_NV * grad, None, None
