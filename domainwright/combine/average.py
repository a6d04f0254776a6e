"""Average: the mean of what adapters change, never of their factors.

    low-rank changes    ΔW = Σ w_i B_i A_i       A = [A_1; A_2; …]     B = [w_1 B_1, w_2 B_2, …]
    new values          θ = Σ w_i θ_i            of Σ w_i = 1, so the mean of the changes, too

Both are exact; the rank is the sum of the ranks. The mean of A's times the mean of B's would be
another thing, with the cross terms B_i A_j in it.

Source: Wortsman et al. 2022, arXiv:2203.05482 (model soups: uniform).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from domainwright.combine import COMBINERS
from domainwright.combine._changes import Changes, Joined, LossOf


def mean(members: Sequence[Changes], weights: Sequence[float]) -> Changes:
    """The weighted mean. A layer that some members leave alone is unchanged by those."""
    parts = [(m, w) for m, w in zip(members, weights, strict=True) if w]
    paths = dict.fromkeys(path for m, _ in parts for path in m.low_rank)
    low_rank = {}
    for path in paths:
        own = [(*m.low_rank[path], w) for m, w in parts if path in m.low_rank]
        low_rank[path] = (
            torch.cat([a for a, _, _ in own]),
            torch.cat([w * b for _, b, w in own], dim=1),
        )
    names = dict.fromkeys(name for m, _ in parts for name in m.values)
    values: dict[str, Tensor] = {}
    for name in names:
        for member, weight in parts:
            term = weight * member.values[name]
            values[name] = values[name] + term if name in values else term
    return Changes(low_rank=low_rank, values=values)


@COMBINERS.register
class Average:
    """Uniform soup, or a weighted one."""

    summary = "The mean of what the adapters change: exact, of the sum of the ranks."
    weighted = True

    @staticmethod
    def join(members: Sequence[Changes], weights: Sequence[float], loss_of: LossOf) -> Joined:
        return Joined(mean(members, weights), tuple(weights))
