"""How far the model has moved from the base on general text, seen at every check.

    general_kl          mean over tokens of  KL(p_base ‖ p_θ), nats, exact over the vocabulary
    general_agreement   share of tokens of which both find the same one likeliest

Neither needs labels, and both move before the loss does. Of the base its final states are kept,
(N, D) numbers for the whole run, so a check costs two more products with the head and no forward
pass; where logits are no product of the states, the base is read again.

Dimension key: N tokens, D hidden size, V vocabulary, B rows of a block.
"""

import torch
from torch.nn import functional

from domainwright.models.base import Base
from domainwright.train.distillation import ROWS
from domainwright.train.loss import BLOCK, Batch, at_places, summed_loss_of
from domainwright.train.passes import Packing
from domainwright.train.shaped import Says, base_says, projected


class Monitor:
    """The general rows of one run."""

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self._known: dict[int, list[Says]] = {}
        """Tokens of a pass -> what the base says in each."""

    @torch.no_grad()
    def read(self, limit: int) -> dict[str, float]:
        """general_loss, general_kl and general_agreement of what hangs on the base now.

        The loss is that of `step.mean_loss`, bit for bit.
        """
        base, passes = self.packing.base, self.packing.passes(limit)
        known = self._known.get(limit)
        bare = known or [_bare(base, batch) for batch in passes]
        if base.plain_head:
            self._known = {limit: bare}
        total, apart, agreed, count = 0.0, 0.0, 0, 0
        for batch, says in zip(passes, bare, strict=True):
            loss, mine = _adapted(base, batch)
            found, same = _compared(mine, says, len(batch.labels_N))
            total, count = total + loss, count + len(batch.labels_N)
            apart, agreed = apart + found, agreed + same
        return {
            "general_loss": total / count,
            "general_kl": apart / count,
            "general_agreement": agreed / count,
        }


def _bare(base: Base, batch: Batch) -> Says:
    rows_N, places_N = batch.sources_N.unique(return_inverse=True)
    return base_says(base, batch.flat, rows_N, places_N)


def _adapted(base: Base, batch: Batch) -> tuple[float, Says]:
    """(summed loss, logits by rows) of the model as it is."""
    flat, sources_N, labels_N, *_ = batch
    rows_N, places_N = sources_N.unique(return_inverse=True)
    if not base.plain_head:
        logits = base.logits(flat, rows_N).float()[places_N]
        return float(
            functional.cross_entropy(logits, labels_N, reduction="sum")
        ), logits.__getitem__
    states = at_places(base.hidden(flat, rows_N), places_N)
    return float(summed_loss_of(base, states, labels_N)), projected(base, states)


def _compared(mine: Says, bare: Says, count: int) -> tuple[float, int]:
    """(summed divergence, tokens of which both find the same likeliest)."""
    apart, agreed = 0.0, 0
    for start in range(0, count, BLOCK):
        rows = slice(start, min(start + BLOCK, count))
        # A product wants many rows, and what is made of its logits few: they stay in a cache.
        for ours_BV, theirs_BV in zip(
            *(says(rows).split(ROWS) for says in (mine, bare)), strict=True
        ):
            ours_BV, theirs_BV = (x.float().log_softmax(1) for x in (ours_BV, theirs_BV))
            agreed += int((ours_BV.argmax(1) == theirs_BV.argmax(1)).sum())
            apart += float((theirs_BV.exp() * ours_BV.neg_().add_(theirs_BV)).sum())
    return apart, agreed
