"""The loss head: cross-entropy at supervised positions only, gradient computed in the forward.

    loss = Σ over N positions of  -log softmax(h Wᵀ)[label]

softmax minus one-hot is known as soon as the logits are, so the gradient with respect to h
is made in the same pass over a block of rows and the (N, V) logits never exist at once:
two matrix products a block, and memory that does not grow with the batch. Rows with a teacher's
lesson have the loss of `distillation`, in the same blocks; rows with labels have the plain
cross-entropy of the head that an adapter brought, which is small.

Dimension key: N supervised positions, D hidden size, V vocabulary.
"""

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from domainwright.models.base import Base
from domainwright.models.flat import Flat, flatten
from domainwright.models.forms import TrainRow
from domainwright.models.kernels import cross_entropy
from domainwright.models.lesson import Lesson, joined
from domainwright.models.token_rows import TokenRows
from domainwright.models.tree import grow
from domainwright.train.distillation import BlendedLoss, blended
from domainwright.train.head import Head, Pulls, head_of
from domainwright.train.order import micro_batches

BLOCK = 256
"""Rows at a time: 256 x 49,152 float32 logits are 50 MB."""


class Batch(NamedTuple):
    """Several rows in one pass; all of them have a lesson, or labels, or none has."""

    flat: Flat
    sources_N: Tensor
    """Row of the flat batch that predicts each target."""
    labels_N: Tensor
    """The supervised token, or the number of its label."""
    lesson: Lesson | None = None
    """What a teacher says about each of them."""
    classes: int = 0
    """How many labels there are; 0: the targets are tokens."""


def batch_of(
    base: Base, rows: Sequence[TrainRow], *, apart: bool = False, prompts: bool = False
) -> Batch:
    """The rows as one batch.

    What several rows begin with, a system prompt or a context, is in the batch once: its states
    and its gradient are those of every row that has it.

    Args:
        apart: every row is read whole, as where noise is drawn for each.
        prompts: tokens that are not supervised are targets too.
    """
    (batch,) = batches_of(base, [rows], apart=apart, prompts=prompts)
    return batch


def batches_of(
    base: Base,
    parts: Sequence[Sequence[TrainRow]],
    *,
    apart: bool = False,
    prompts: bool = False,
) -> list[Batch]:
    """Every part as a batch of its own; all share one flat batch, so that one pass reads them."""
    rows = [row for part in parts for row in part]
    if apart or base.hooks.dropping or base.feeding == "single":
        # Noise is drawn for every document anew, so none may stand for another.
        flat = flatten([row.ids for row in rows], base.device)
        places = [list(range(d.start, d.stop)) for d in flat.documents()]
    else:
        tree = grow([tuple(row.ids) for row in rows])
        flat = tree.flat(base.device)
        places = [tree.rows(i, 0, len(row.ids)) for i, row in enumerate(rows)]
    standing = iter(places)
    return [
        _targets(base, flat, part, list(islice(standing, len(part))), prompts) for part in parts
    ]


def _targets(
    base: Base, flat: Flat, rows: Sequence[TrainRow], places: list[list[int]], prompts: bool
) -> Batch:
    """What is learned of some rows of a flat batch, each at its places there."""
    sources: list[int] = []
    labels: list[int] = []
    for row, place in zip(rows, places, strict=True):
        if row.labels is not None:
            sources += [place[i] for i, on in enumerate(row.supervised) if on]
            labels += row.labels
            continue
        # A document's first token is predicted by nothing: never by the document before it.
        marked = [i for i, on in enumerate(row.supervised) if (on or prompts) and i]
        sources += [place[i - 1] for i in marked]
        labels += [row.ids[i] for i in marked]
    lessons = [row.lesson for row in rows if row.lesson is not None]
    assert len(lessons) in (0, len(rows)), "rows with and without a lesson in one run"
    classes = {row.classes for row in rows}
    assert len(classes) == 1, "rows with other labels, or with none, in one pass"
    return Batch(
        flat,
        torch.tensor(sources, dtype=torch.long, device=base.device),
        torch.tensor(labels, dtype=torch.long, device=base.device),
        joined(lessons, base.device) if lessons else None,
        classes.pop(),
    )


def summed_loss(
    base: Base,
    flat: Flat,
    sources_N: Tensor,
    labels_N: Tensor,
    lesson: Lesson | None = None,
    classes: int = 0,
) -> Tensor:
    """Summed loss in nats over the chosen targets of a flat batch, a float32 scalar.

    Args:
        sources_N: row of the flat batch that predicts each target; a shared row may predict
            several.
        labels_N: ids of the targets, or the numbers of their labels.
        lesson: what a teacher says about each of them.
        classes: how many labels there are, for the head that hangs on the base.
    """
    if classes:
        return label_losses(base, flat, sources_N, labels_N, classes).sum()
    rows_N, places_N = sources_N.unique(return_inverse=True)
    if not base.plain_head:
        logits = base.logits(flat, rows_N).float()[places_N]
        if lesson is not None:
            blend: Tensor = BlendedLoss.apply(logits, labels_N, lesson)
            return blend
        return functional.cross_entropy(logits, labels_N, reduction="sum")
    hidden_ND = at_places(base.hidden(flat, rows_N), places_N)
    return summed_loss_of(base, hidden_ND, labels_N, lesson)


def summed_loss_of_each(base: Base, batches: Sequence[Batch]) -> list[Tensor]:
    """The same for batches of one flat batch, which is read once; where `plain_head` holds."""
    flat = batches[0].flat
    rows_N, places_N = torch.cat([batch.sources_N for batch in batches]).unique(return_inverse=True)
    states_MD = at_places(base.hidden(flat, rows_N), places_N)
    parts = states_MD.split([len(batch.sources_N) for batch in batches])
    return [
        summed_loss_of(base, part, batch.labels_N, batch.lesson)
        for part, batch in zip(parts, batches, strict=True)
    ]


def summed_loss_of(
    base: Base, hidden_ND: Tensor, labels_N: Tensor, lesson: Lesson | None = None
) -> Tensor:
    """The same from the states that predict each target, where `plain_head` holds."""
    return _head_losses(base, hidden_ND, labels_N, lesson, 1)[0]


def at_places(states_MD: Tensor, places_N: Tensor) -> Tensor:
    """The states (N, D) of every target; nothing is copied where each has one of its own."""
    if len(states_MD) == len(places_N) and torch.equal(
        places_N, torch.arange(len(places_N), device=places_N.device)
    ):
        return states_MD
    return states_MD[places_N]


def label_losses(
    base: Base, flat: Flat, sources_N: Tensor, labels_N: Tensor, classes: int
) -> Tensor:
    """Loss (N) in nats of labels under the head on the base; without one it is a guess: log C."""
    head = base.hooks.head
    if head is None:
        return torch.full(labels_N.shape, math.log(classes), device=base.device)
    rows_N, places_N = sources_N.unique(return_inverse=True)
    logits = head(base.hidden(flat, rows_N))[places_N]
    return functional.cross_entropy(logits, labels_N, reduction="none")


@torch.no_grad()
def losses_of_rows(base: Base, rows: Sequence[TrainRow], limit: int) -> list[float]:
    """Each row's own summed loss in nats, no gradient, in passes of at most `limit` tokens."""
    found: list[float] = []
    for group in micro_batches(rows, limit):
        flat, sources_N, labels_N, _, classes = batch_of(base, group)
        if classes:
            each = label_losses(base, flat, sources_N, labels_N, classes)
            found += [float(x.sum()) for x in each.split([row.targets for row in group])]
            continue
        rows_N, places_N = sources_N.unique(return_inverse=True)
        states = base.hidden(flat, rows_N) if base.plain_head else base.logits(flat, rows_N)
        losses = []
        for places, labels in zip(places_N.split(BLOCK), labels_N.split(BLOCK), strict=True):
            logits = base.project(states[places]) if base.plain_head else states[places]
            losses.append(functional.cross_entropy(logits.float(), labels, reduction="none"))
        each = torch.cat(losses).split([row.targets for row in group])
        found += [float(x.sum()) for x in each]
    return found


def summed_losses(
    base: Base,
    owners: Sequence[Any],
    flat: Flat,
    sources_N: Tensor,
    labels_N: Tensor,
    lesson: Lesson | None = None,
    classes: int = 0,
) -> Tensor:
    """The same for several adapters that hang on the base: each owner's sum, read in one batch.

    Only where `plain_head` holds, where none of them drops inputs, and where targets are tokens.
    """
    assert not classes, "an adapter with a head of its own steps alone"
    rows_N, places_N = sources_N.unique(return_inverse=True)
    hidden_CND = base.hidden_of_each(owners, flat, rows_N)
    if not torch.equal(places_N, torch.arange(len(places_N), device=places_N.device)):
        hidden_CND = hidden_CND[:, places_N]
    copies = len(owners)
    lesson = None if lesson is None else lesson.repeated(copies)
    return _head_losses(base, hidden_CND.flatten(0, 1), labels_N.repeat(copies), lesson, copies)


def _head_losses(
    base: Base, hidden_ND: Tensor, labels_N: Tensor, lesson: Lesson | None, owners: int
) -> Tensor:
    """Summed loss of each owner's rows; all have equally many, one owner's after the other's."""
    count = len(labels_N)
    if lesson is None:  # rows that fill the grid, after the last owner's
        hidden_ND = functional.pad(hidden_ND, (0, 0, 0, -count % base.grid))
        labels_N = functional.pad(labels_N, (0, -count % base.grid))
    losses: Tensor = _HeadLoss.apply(hidden_ND, *head_of(base), labels_N, lesson, owners, count)
    return losses


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        bias_V: Tensor | None,
        values_nD: Tensor | None,
        learned: TokenRows | None,
        labels_N: Tensor,
        lesson: Lesson | None,
        owners: int,
        count: int,
    ) -> Tensor:
        pulls = Pulls(Head(head_VD, bias_V, values_nD, learned))
        wants_gradient = hidden_ND.requires_grad or pulls.wanted
        gradient_ND = torch.empty_like(hidden_ND) if wants_gradient else None
        losses_N = torch.empty(len(hidden_ND), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), BLOCK):
            rows = slice(start, start + BLOCK)
            logits = functional.linear(hidden_ND[rows], head_VD, bias_V)
            if lesson is None:
                losses_N[rows], _ = cross_entropy(logits, labels_N[rows], gradient=wants_gradient)
            else:
                losses_N[rows] = blended(
                    logits, labels_N[rows], lesson.at(rows), gradient=wants_gradient
                )
            if gradient_ND is not None:
                torch.mm(logits, head_VD, out=gradient_ND[rows])
                pulls.add(logits, hidden_ND[rows], count - start)
        ctx.save_for_backward(gradient_ND)
        ctx.count, ctx.pulls = count, pulls
        return losses_N[:count].view(owners, -1).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_ND,) = ctx.saved_tensors
        # A factor without dimensions each: it widens no bfloat16, and is not rounded to one.
        parts = gradient_ND[: ctx.count].chunk(len(grad))
        scaled = [part * own for part, own in zip(parts, grad, strict=True)]
        whole_ND = functional.pad(torch.cat(scaled), (0, 0, 0, len(gradient_ND) - ctx.count))
        # What of the head learns shares no batch, so where something does there is one owner.
        head = ctx.pulls.gradients(grad[0])
        return whole_ND.to(gradient_ND.dtype), *head, *[None] * 5
