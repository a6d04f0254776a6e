"""Stay near the start, in the weights.

    a low-rank change           α/2 · Σ ‖γ B A‖²  =  α/2 · Σ γ² tr((A Aᵀ)(Bᵀ B))
    every other parameter       α/2 · Σ ‖θ - θ₀‖²        θ₀: where it began

Ordinary weight decay pulls full weights to zero, away from the base; this pulls them back to it.
The change B A is never formed: both factors of the trace are rank by rank. Where a method's
change is no plain product (DoRA's lengths, say), it is the distance of its parameters.

Source: Li, Grandvalet and Davoine 2018, arXiv:1802.01483.
Dimension key: R rank.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from domainwright.methods._adapter import Adapter
from domainwright.models.lowrank import LowRank
from domainwright.train.penalties import PENALTIES
from domainwright.train.penalties._penalty import Given, Penalty, PenaltySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class L2SpSettings(PenaltySettings):
    weight: float = 0.01
    """α."""


class L2SpPenalty(Penalty):
    name = "l2_sp"

    def __init__(self, adapter: Adapter, weight: float) -> None:
        self.weight = weight
        places = list(adapter.places())
        hooks_on = Counter(path for path, _ in places)
        # A product that another hook goes on with, as DoRA's lengths do, is not the change.
        self.changes = [x for path, x in places if isinstance(x, LowRank) and hooks_on[path] == 1]
        inside = {id(p) for x in self.changes for p in (x.A_RI, x.B_OR)}
        # A weight that begins as the base's own needs no copy: the base keeps it.
        own = {id(p): name for name, p in adapter.replacements()}
        self.others = [
            (p, _start(adapter, p, own.get(id(p))))
            for p in adapter.parameters()
            if p.requires_grad and id(p) not in inside
        ]

    def parts(self) -> Iterator[Tensor]:
        for change in self.changes:
            yield self.weight / 2 * squared_norm(change)
        for parameter, start in self.others:
            yield self.weight / 2 * (parameter - start.to(parameter.dtype)).square().sum()


def squared_norm(change: LowRank) -> Tensor:
    """‖γ B A‖² without forming the product; both small products are (R, R)."""
    A, B = change.factors()
    return change.scale**2 * ((A @ A.T) * (B.T @ B)).sum()


def _start(adapter: Adapter, parameter: nn.Parameter, name: str | None) -> Tensor:
    """Where a parameter begins: the base's own value, or a copy."""
    begun = parameter.detach()
    if name is not None:
        with adapter.base.hooks.disabled():
            own = adapter.base.model.get_parameter(name).detach()
        if torch.equal(own.to(begun.dtype), begun):
            return own
    return begun.clone()


@PENALTIES.register
class L2Sp:
    """Distance from the start."""

    Settings = L2SpSettings
    summary = "Weights stay near where they began; a low-rank change stays small."

    @staticmethod
    def build(adapter: Adapter, settings: L2SpSettings, given: Given) -> L2SpPenalty:
        return L2SpPenalty(adapter, settings.weight)
