"""The loss head: cross-entropy at supervised positions only, gradient computed in the forward.

    loss = Σ over N positions of  -log softmax(h Wᵀ)[label]

softmax minus one-hot is known as soon as the logits are, so the gradient with respect to h
is made in the same pass over a block of rows and the (N, V) logits never exist at once:
two matrix products a block, and memory that does not grow with the batch.

Dimension key: N supervised positions, D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from domainwright.models.base import Base
from domainwright.models.flat import Flat

BLOCK = 256
"""Rows at a time: 256 x 49,152 float32 logits are 50 MB."""


def summed_loss(base: Base, flat: Flat, targets_N: Tensor, labels_N: Tensor) -> Tensor:
    """Summed loss in nats over the chosen targets of a flat batch, a float32 scalar.

    Args:
        targets_N: positions in the flat batch of the tokens to be predicted.
        labels_N: their ids. The prediction is read one position before each target.
    """
    if not base.plain_head:
        logits = base.logits(flat, targets_N - 1).float()
        return functional.cross_entropy(logits, labels_N, reduction="sum")
    hidden_ND = base.hidden(flat)[targets_N - 1]
    head = base.model.get_output_embeddings()
    loss: Tensor = _HeadLoss.apply(hidden_ND, head.weight, getattr(head, "bias", None), labels_N)
    return loss


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor
    ) -> Tensor:
        wants_gradient = hidden_ND.requires_grad
        gradient_ND = torch.empty_like(hidden_ND) if wants_gradient else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), BLOCK):
            rows = slice(start, start + BLOCK)
            labels = labels_N[rows, None]
            logits = functional.linear(hidden_ND[rows], head_VD, bias_V).float()
            chosen = logits.gather(1, labels)
            normaliser = logits.logsumexp(1, keepdim=True)
            total += (normaliser - chosen).sum()
            if gradient_ND is not None:
                share = logits.sub_(normaliser).exp_()
                share.scatter_add_(1, labels, torch.full_like(chosen, -1.0))
                gradient_ND[rows] = share.to(hidden_ND.dtype) @ head_VD
        ctx.save_for_backward(gradient_ND)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_ND,) = ctx.saved_tensors
        return (gradient_ND * grad).to(gradient_ND.dtype), None, None, None
