"""The loss of a run that asks more of its rows' tokens than their likelihood.

    a token    w · [ (1 - ε) · -log p(label)  +  ε · mean of -log p  +  λ · KL(q ‖ p) ]
    w          1 where supervised, `prompt_weight` elsewhere
    ε          `label_smoothing`: the target is (1 - ε) · onehot + ε / V
    q          the untouched base's distribution over the whole vocabulary (penalty `kl`)
    r_drop     every row is read twice under different noise: both readings' losses, and
               w · α · ½ [ KL(p₁ ‖ p₂) + KL(p₂ ‖ p₁) ]
    a step     the sum over its tokens / the sum of their w

As in `loss`, the gradient with respect to the logits z is made in the forward pass, block by
block, so that no (N, V) table outlives its block:

    ∂/∂z       w · [ p - (1 - ε) · onehot - ε / V  +  λ · (p - q) ]
    ∂/∂z₁      w · α / 2 · [ p₁ · (log p₁ - log p₂ - KL(p₁ ‖ p₂)) + p₁ - p₂ ]

Sources: Szegedy et al. 2016, arXiv:1512.00567, section 7 (label smoothing); Liang et al. 2021,
arXiv:2106.14448 (R-Drop).
Dimension key: C readings, N targets, D hidden size, V vocabulary, B rows of a block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from domainwright.models.base import Base
from domainwright.models.flat import Flat
from domainwright.models.forms import TrainRow
from domainwright.models.token_rows import TokenRows
from domainwright.train import loss as loss_head
from domainwright.train.head import Head, Pulls, head_of
from domainwright.train.loss import Batch, at_places, batch_of

Says = Callable[[slice], Tensor]
"""Rows -> the untouched base's logits (B, V) there."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is asked beyond likelihood. All zero: nothing."""

    smoothing: float = 0.0
    anchor: float = 0.0
    """Weight of the divergence from the base."""
    agreement: float = 0.0
    """Weight of the divergence of two readings."""

    @property
    def copies(self) -> int:
        return 2 if self.agreement else 1


class Shaped(NamedTuple):
    """Rows in one pass, copy after copy."""

    batch: Batch
    weights_N: Tensor
    """How much each target counts; of one copy."""


def weights_of(row: TrainRow, prompt_weight: float) -> list[float]:
    """How much each target of a row counts."""
    return [
        1.0 if on else prompt_weight
        for i, on in enumerate(row.supervised)
        if i and (on or prompt_weight)
    ]


def shaped_batch(
    base: Base, rows: Sequence[TrainRow], copies: int, prompt_weight: float, *, apart: bool
) -> Shaped:
    """The rows as one pass for `shaped_loss`."""
    batch = batch_of(base, [*rows] * copies, apart=apart or copies > 1, prompts=prompt_weight > 0)
    weights = [w for row in rows for w in weights_of(row, prompt_weight)]
    return Shaped(batch, torch.tensor(weights, device=base.device))


def shaped_loss(base: Base, read: Shaped, shape: Shape) -> tuple[Tensor, Tensor]:
    """(summed loss, its three parts without their weights: likelihood, from the base, agreement).

    The parts (3) carry no gradient; the likelihood is the sum over both readings.
    """
    flat, sources_N, labels_N, *_ = read.batch
    count, copies = len(read.weights_N), shape.copies
    rows_N, places_N = sources_N.unique(return_inverse=True)
    says = base_says(base, flat, rows_N, places_N[:count]) if shape.anchor else None
    if not base.plain_head:
        logits = base.logits(flat, rows_N)[places_N].unflatten(0, (copies, count))
        asked = _Asked(shape, labels_N[:count], read.weights_N, says)
        found: tuple[Tensor, Tensor] = _Loss.apply(logits, *[None] * 4, asked)
        return found
    states = at_places(base.hidden(flat, rows_N), places_N).unflatten(0, (copies, count))
    # Rows that fill the grid count nothing.
    more = -count % base.grid
    asked = _Asked(
        shape,
        functional.pad(labels_N[:count], (0, more)),
        functional.pad(read.weights_N, (0, more)),
        says,
    )
    found = _Loss.apply(functional.pad(states, (0, 0, 0, more)), *head_of(base), asked)
    return found


@torch.no_grad()
def base_says(base: Base, flat: Flat, rows_N: Tensor, places_N: Tensor) -> Says:
    """The untouched base's logits at the chosen places, made when they are asked for."""
    with base.hooks.disabled():
        if not base.plain_head:
            return base.logits(flat, rows_N)[places_N].__getitem__
        return projected(base, at_places(base.hidden(flat, rows_N), places_N))


def projected(base: Base, states_ND: Tensor) -> Says:
    """Logits of states, made when they are asked for, with the head as it is now."""
    head = base.model.get_output_embeddings()
    # Taken now: later an adapter's own weight may be read in its place.
    weight, bias = head.weight, getattr(head, "bias", None)
    count, more = len(states_ND), -len(states_ND) % base.grid
    states_ND = functional.pad(states_ND, (0, 0, 0, more))

    def says(rows: slice) -> Tensor:
        stop = rows.stop if rows.stop < count else count + more
        made: Tensor = functional.linear(states_ND[rows.start : stop], weight, bias)
        return made[: rows.stop - rows.start]

    return says


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    shape: Shape
    labels_N: Tensor
    weights_N: Tensor
    says: Says | None

    def parts(self, logits: list[Tensor], rows: slice) -> Tensor:
        """The three parts (3) of a block; its logits (B, V) become the gradient, in place."""
        shape, labels_B1 = self.shape, self.labels_N[rows, None]
        weights_B = self.weights_N[rows]
        found = torch.zeros(3, device=labels_B1.device)
        logs = [z.float().log_softmax(1) for z in logits]
        pulls = []
        for log_BV in logs:
            loss_B = -(1 - shape.smoothing) * log_BV.gather(1, labels_B1)[:, 0]
            if shape.smoothing:
                loss_B -= shape.smoothing * log_BV.mean(1)
            found[0] += weights_B @ loss_B
            pull_BV = log_BV.exp()
            if self.says is not None:
                base_BV = self.says(rows).float().log_softmax(1)
                q_BV = base_BV.exp()
                found[1] += weights_B @ (q_BV * (base_BV - log_BV)).sum(1)
                pull_BV.mul_(1 + shape.anchor).sub_(q_BV, alpha=shape.anchor)
            wanted = torch.full_like(labels_B1, shape.smoothing - 1, dtype=pull_BV.dtype)
            pulls.append(pull_BV.scatter_add_(1, labels_B1, wanted))
            if shape.smoothing:
                pull_BV -= shape.smoothing / pull_BV.shape[1]
        if shape.agreement:
            found[2] = weights_B @ _agree(logs, pulls, shape.agreement)
        for z, pull_BV in zip(logits, pulls, strict=True):
            z.copy_(weights_B[:, None] * pull_BV)
        return found


def _agree(logs: list[Tensor], pulls: list[Tensor], strength: float) -> Tensor:
    """½ [KL(p₁ ‖ p₂) + KL(p₂ ‖ p₁)] (B); its gradient is added to the pulls."""
    apart_BV = logs[0] - logs[1]
    first, second = (x.exp() for x in logs)
    there, back = (first * apart_BV).sum(1), -(second * apart_BV).sum(1)
    half = strength / 2
    pulls[0].add_(first * (apart_BV - there[:, None] + 1) - second, alpha=half)
    pulls[1].add_(second * (1 - apart_BV - back[:, None]) - first, alpha=half)
    return (there + back) / 2


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        given: Tensor,
        head_VD: Tensor | None,
        bias_V: Tensor | None,
        values_nD: Tensor | None,
        learned: TokenRows | None,
        asked: _Asked,
    ) -> tuple[Tensor, Tensor]:
        """`given`: states (C, N, D), or without a head the logits (C, N, V) themselves."""
        gradient = torch.empty_like(given)
        pulls = None if head_VD is None else Pulls(Head(head_VD, bias_V, values_nD, learned))
        parts = torch.zeros(3, device=given.device)
        for start in range(0, given.shape[1], loss_head.BLOCK):
            rows = slice(start, start + loss_head.BLOCK)
            block = [one[rows] for one in given]
            logits = [
                z.clone() if head_VD is None else functional.linear(z, head_VD, bias_V)
                for z in block
            ]
            parts += asked.parts(logits, rows)
            for one, pull_BV in zip(gradient, logits, strict=True):
                one[rows] = pull_BV if head_VD is None else pull_BV @ head_VD
            if pulls is not None:
                for pull_BV, states_BD in zip(logits, block, strict=True):
                    # What fills the grid has no weight, so it pulls at nothing.
                    pulls.add(pull_BV, states_BD, len(states_BD))
        ctx.save_for_backward(gradient)
        ctx.pulls = pulls
        ctx.mark_non_differentiable(parts)
        shape = asked.shape
        return parts[0] + shape.anchor * parts[1] + shape.agreement * parts[2], parts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        head = [None] * 3 if ctx.pulls is None else ctx.pulls.gradients(grads[0])
        return gradient * grads[0], *head, None, None
