"""Greedy soup: the mean of those adapters that do not make it worse.

    from the best to the worst:  keep one more  if  loss(mean with it) ≤ loss(mean so far)

The loss is that on held-out rows, so the soup is never worse there than its best member.

Source: Wortsman et al. 2022, arXiv:2203.05482, recipe 1.
"""

from collections.abc import Sequence

from domainwright.combine import COMBINERS
from domainwright.combine._changes import Changes, Joined, LossOf
from domainwright.combine.average import mean


@COMBINERS.register
class Greedy:
    """Greedy soup."""

    summary = "The mean of those adapters that do not raise the loss on development rows."
    weighted = False

    @staticmethod
    def join(members: Sequence[Changes], weights: Sequence[float], loss_of: LossOf) -> Joined:
        alone = [loss_of(m) for m in members]
        first, *rest = sorted(range(len(members)), key=alone.__getitem__)
        soup, least = [first], alone[first]
        for n in rest:
            tried = [*soup, n]
            loss = loss_of(mean([members[i] for i in tried], [1 / len(tried)] * len(tried)))
            if loss <= least:
                soup, least = tried, loss
        shares = [1 / len(soup) if n in soup else 0.0 for n in range(len(members))]
        return Joined(mean(members, shares), tuple(shares))
