"""Stay near the base's predictions on the training rows themselves.

    + λ · KL(p_base ‖ p_θ)        mean over the supervised tokens of the step's own rows

Exact over the vocabulary and made in the loss head (`train.shaped`), where the base is the same
model with every adapter off: one more forward pass, and no second model in memory. Divergence on
general texts instead is `train.replay` with `learn: base`.

Source: Li and Hoiem 2016, arXiv:1606.09282 (learning without forgetting).
"""

from dataclasses import dataclass

from domainwright.methods._adapter import Adapter
from domainwright.train.penalties import PENALTIES
from domainwright.train.penalties._penalty import Given, Penalty, PenaltySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class KlSettings(PenaltySettings):
    weight: float = 0.3
    """λ; usual are 0.1 to 1."""


class KlPenalty(Penalty):
    name = "kl"

    def __init__(self, weight: float) -> None:
        self.anchor = weight


@PENALTIES.register
class Kl:
    """Divergence from the base."""

    Settings = KlSettings
    summary = "Predictions on the training rows stay near the untouched base's."

    @staticmethod
    def build(adapter: Adapter, settings: KlSettings, given: Given) -> KlPenalty:
        return KlPenalty(settings.weight)
