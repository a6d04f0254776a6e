"""P-tuning v2: deep prompts for understanding, with a head for labels where rows have them.

    K ← [drop(K_p) ; K]    V ← [drop(V_p) ; V]    in every layer, as in `prefix`
    label   softmax(W h_last)                     the head is `_head`'s, of any method

Source: Liu et al. 2022, arXiv:2110.07602, section 3: prompts in every layer, no verbaliser but a
linear head, no network that makes the rows unless asked for; their scripts take 8 to 224 rows
(few for easy classes, more than 100 for labelling every token), rates of 5e-3 to 6e-2 and a
dropout of 0.1 to 0.2. Where theirs begins at noise, this begins at a text's keys and values,
unless `start: random` says otherwise. In PEFT's files it is PREFIX_TUNING.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from domainwright.core.errors import ConfigError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS
from domainwright.methods.prefix import PrefixAdapter, PrefixSettings, begun, load
from domainwright.models.base import Base


@dataclass(frozen=True, slots=True, kw_only=True)
class PtuningV2Settings(PrefixSettings):
    """Prefix's, and a dropout on the table."""

    rows: int = 16
    """Keys and values learned in each layer; 64 or more to label every token."""
    dropout: float = 0.0
    """Share of the table set to zero in training, drawn once a pass; their scripts take 0.1 to
    0.2. In [0, 1)."""

    def __post_init__(self) -> None:
        PrefixSettings.__post_init__(self)
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"ptuning_v2.dropout is {self.dropout}, outside [0, 1).",
                "give a share such as 0.1.",
            )


class PtuningV2Adapter(PrefixAdapter):
    method, version = "ptuning_v2", 1

    @property
    def dropout(self) -> float:
        return float(self.settings.dropout)


@METHODS.register
class PtuningV2:
    """Deep prompts for labels."""

    Settings = PtuningV2Settings
    version = 1
    summary = "Deep prompts with dropout, made for a head on labels; fewer rows than prefix."
    parameter_formula = "rows · layers · 2 · keys per layer, and inputs · labels of a head"
    peft_type: ClassVar[str | None] = "PREFIX_TUNING"
    identity_start = False
    random_start = False
    learning_rate: ClassVar = {"small": 7e-3, "large": 7e-3}
    """Below and from one billion parameters; methods.md §15.3, not swept."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    @staticmethod
    def build(base: Base, settings: PtuningV2Settings, seed: int) -> PtuningV2Adapter:
        """A fresh adapter.

        Raises:
            CapabilityError: the base has no attention that takes more keys.
        """
        own = derive(seed, "prefix network") if settings.projection else None
        return PtuningV2Adapter(base, settings, begun(base, settings, seed), own)

    @staticmethod
    def load(base: Base, folder: Path) -> PtuningV2Adapter:
        """An adapter saved by us, or a prefix of PEFT's.

        Raises:
            DataError: another base, another type, a tensor of another shape, another network.
        """
        return load(base, folder, PtuningV2Settings, PtuningV2Adapter)
