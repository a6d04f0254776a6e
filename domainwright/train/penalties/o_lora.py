"""Keep a new LoRA out of the directions that earlier ones read: orthogonal subspaces (O-LoRA).

    + λ · Σ_layers Σ_i ‖A_i Aᵀ‖        ‖·‖ the sum of absolute values

A_i are the rows of the earlier adapters, which stay (`lora.past`), A those of the new one. The sum
of absolute values is the released code's (cmnfriend/O-LoRA, uie_trainer_lora.py); the paper's
equation 8 has the sum of squares. Its further λ₂ on the size of the new factors is not built in:
`l2_sp` holds the whole change. Earlier scripts take λ = 0.5, and 5 late in long streams.

Source: Wang et al. 2023, arXiv:2310.14152, section 3.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from domainwright.core.errors import CapabilityError
from domainwright.methods._adapter import Adapter
from domainwright.models.lowrank import LowRank
from domainwright.train.penalties import PENALTIES
from domainwright.train.penalties._penalty import Given, Penalty, PenaltySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class OLoraSettings(PenaltySettings):
    weight: float = 0.5
    """λ."""


class OLoraPenalty(Penalty):
    name = "o_lora"

    def __init__(self, adapter: Adapter, weight: float) -> None:
        self.weight = weight
        hooks = [hook for _, hook in adapter.places() if isinstance(hook, LowRank)]
        self.pairs = [(x.frozen[0], x.A_RI) for x in hooks if x.frozen is not None]

    def parts(self) -> Iterator[Tensor]:
        for before, now in self.pairs:
            yield self.weight * (before @ now.T).abs().sum()


@PENALTIES.register
class OLora:
    """Overlap with earlier adapters."""

    Settings = OLoraSettings
    summary = "A new LoRA reads other directions than the earlier ones that stay beside it."

    @staticmethod
    def build(adapter: Adapter, settings: OLoraSettings, given: Given) -> OLoraPenalty:
        """The penalty of a run with a past.

        Raises:
            CapabilityError: there is none.
        """
        found = OLoraPenalty(adapter, settings.weight)
        if not found.pairs:
            raise CapabilityError(
                "The penalty o_lora keeps a run apart from earlier ones that stay, and this "
                f"{adapter.method} run has none.",
                "set `methods: {lora: {past: [RUN]}}`, or leave o_lora out.",
            )
        return found
