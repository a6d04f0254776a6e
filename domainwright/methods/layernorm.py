"""Layer-norm tuning: learn new gains (and offsets) of every normalisation.

    y = g' ⊙ x / rms(x)        or        y = g' ⊙ (x − mean) / std + b'

Source: Zhao et al. 2023, arXiv:2312.11420 (PEFT's LN_TUNING). Norms of queries and keys
count too (Qwen 3). Merging is a swap: the new values are written in the old ones' place. It
shares no flat batch with other adapters, because a norm has one gain.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from domainwright.core.errors import DataError
from domainwright.methods import METHODS, _peft_format, _weights
from domainwright.methods._weights import WeightsAdapter
from domainwright.models.base import Base
from domainwright.models.points import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class LayernormSettings:
    pass


class LayernormAdapter(WeightsAdapter):
    method, version = "layernorm", 1

    def __init__(self, base: Base, settings: LayernormSettings, norms: list[Site]) -> None:
        names = [f"{s.path}.{n}" for s in norms for n, _ in s.module.named_parameters()]
        super().__init__(base, settings, names)
        self.norms = norms

    def stored(self) -> dict[str, Tensor]:
        return {
            f"{path}.ln_tuning_layers.{kind}": value.data
            for name, value in zip(self.names, self.values, strict=True)
            for path, _, kind in [name.rpartition(".")]
        }

    def save(self, folder: Path) -> None:
        paths = [s.path for s in self.norms]
        config = _peft_format.common("LN_TUNING", self.base.source.name, paths)
        _peft_format.write(folder, config, self.stored(), self.notes())


@METHODS.register
class Layernorm:
    """Gains and offsets of the norms."""

    Settings = LayernormSettings
    version = 1
    summary = "New gains and offsets of every norm; very small, and merging is a swap."
    parameter_formula = "hidden size per norm, twice where it has an offset"
    peft_type: ClassVar[str | None] = "LN_TUNING"
    identity_start = True
    random_start = False
    learning_rate: ClassVar = {"small": 3e-3, "large": 1e-3}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
    merge_rtol: ClassVar = _weights.MERGE_RTOL

    @staticmethod
    def build(base: Base, settings: LayernormSettings, seed: int) -> LayernormAdapter:
        """A fresh adapter: the base's own gains."""
        return LayernormAdapter(base, settings, base.hooks.at("norm"))

    @staticmethod
    def load(base: Base, folder: Path) -> LayernormAdapter:
        """An adapter saved by us or by PEFT, checked key by key.

        Raises:
            DataError: another base, another type, a missing or surplus tensor.
        """
        config, tensors, noted = _peft_format.read(folder)
        _peft_format.check_base(noted, base.sha256, base.source.name, folder)
        _peft_format.check_type(config, "LN_TUNING", "layernorm@1", folder)
        norms = base.hooks.at("norm")
        chosen = _peft_format.declared(config, {s.path: s.block for s in norms})
        if not chosen:
            raise DataError(
                f"{folder} adapts no norm that the base has.",
                "load it on the base it was trained on.",
            )
        own = [s for s in norms if s.path in chosen]
        adapter = LayernormAdapter(base, LayernormSettings(), own)
        _peft_format.fill(adapter.stored(), tensors, folder)
        return adapter
