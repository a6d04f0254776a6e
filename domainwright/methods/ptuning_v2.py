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
from typing import ClassVar

from domainwright.core.errors import ConfigError
from domainwright.methods import METHODS
from domainwright.methods.prefix import Prefix, PrefixAdapter, PrefixSettings


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
class PtuningV2(Prefix):
    """Deep prompts for labels."""

    Settings = PtuningV2Settings
    Adapter = PtuningV2Adapter
    summary = "Deep prompts with dropout, made for a head on labels; fewer rows than prefix."
    parameter_formula = "rows · layers · 2 · keys per layer, and inputs · labels of a head"
    learning_rate: ClassVar = {"small": 7e-3, "large": 7e-3}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
