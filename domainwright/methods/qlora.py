"""QLoRA: LoRA on a base whose linear layers compute with 4-bit weights.

    y = dequantised(codes) x + b + γ · B A drop(x)

Source: Dettmers et al. 2023, arXiv:2305.14314. On a base that was loaded quantised this is LoRA,
and the memory of the full weights is saved. On a full-precision base every linear layer computes
with codes of its weight while the adapter hangs on it, so that one study can compare both on the
base that it shares; detached, the base is itself.

With `start: loftq` the factors begin as what the codes lose (Li et al. 2023, arXiv:2310.08659).

Dimension key: I inputs of the layer, O outputs, R rank.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from domainwright.core.errors import ConfigError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _starts
from domainwright.methods._lora_settings import LoraSettings
from domainwright.methods.lora import Lora, LoraAdapter
from domainwright.models.base import Base
from domainwright.models.four_bit import quantise
from domainwright.models.hooks import Hook
from domainwright.models.points import Linear
from domainwright.models.stand_in import CodesOf, StandIn, codes_of

MERGES = ("dequant16", "original16", "requant4")
"""What the change is added to: the 4-bit weights that training saw; the base's own weights, whose
difference from those the adapter never saw; or the first, quantised once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QloraSettings(LoraSettings):
    """LoRA's, and how the weights are quantised: in blocks of 64, their scales in blocks of 256."""

    quantise: Literal["nf4", "fp4"] = "nf4"
    """Values of the codes: normal quantiles, or 4-bit floating point."""
    double_quantise: bool = True
    """Quantise the scales of the blocks as well: 0.516 instead of 0.5625 bytes a weight."""
    loftq_rounds: int = 1
    """How often loftq quantises, each time what the factors do not hold. From 1 to 5; above 1 the
    codes are the adapter's own."""

    STARTS: ClassVar[tuple[str, ...]] = ("random", "pissa", "olora", "eva", "loftq")
    TAKES_PAST: ClassVar[bool] = False

    def __post_init__(self) -> None:
        LoraSettings.__post_init__(self)
        if not 1 <= self.loftq_rounds <= 5:
            raise ConfigError(
                f"qlora.loftq_rounds is {self.loftq_rounds}, outside 1 to 5.", "give 1 or 5."
            )


class QloraAdapter(LoraAdapter):
    """A and B of every chosen layer; codes of every linear layer, unless the base has them."""

    method, version = "qlora", 1

    def __init__(self, base: Base, settings: QloraSettings, layers: list[Linear]) -> None:
        super().__init__(base, settings, layers)
        held, wanted = base.quantised, (settings.quantise, settings.double_quantise)
        if held is not None and held != wanted:
            raise ConfigError(
                f"qlora.quantise is {_words(wanted)}, and the base was loaded with {_words(held)}.",
                "set both alike, or load the base without `quantise`.",
            )
        if held is not None and settings.start == "loftq":
            raise ConfigError(
                "qlora.start is loftq, and the base holds no weights but codes.",
                "load the base without `quantise`, or choose another start.",
            )
        self.codes: CodesOf | None = None
        if held is None:
            linears = base.hooks.linears
            kind, double = wanted
            self.codes = codes_of(base.model, linears, kind, double=double)

    def _loftq(self) -> list[_starts.Factors]:
        """Factors of every chosen layer; codes of several rounds become the adapter's own."""
        settings, found = self.settings, []
        own = CodesOf(self.codes or {})
        for layer in self.layers:
            codes, factors = _starts.loftq(
                layer.weight_OI.detach(),
                settings.rank_of(layer.path),
                settings.scale_of(layer.path),
                kind=settings.quantise,
                double=settings.double_quantise,
                rounds=settings.loftq_rounds,
                passes=settings.svd_passes,
                # Not the run's seed: an adapter that is loaded must find the same codes.
                seed=derive(0, "loftq", layer.path),
            )
            own[layer.path] = codes
            found.append(factors)
        if settings.loftq_rounds > 1:  # those of one round are of the weights themselves
            self.codes = own
        return found

    def weight_OI(self, layer: Linear) -> Tensor:
        """What the layer computes with while the adapter hangs on it."""
        if self.codes is None:
            return layer.weight_OI
        return self.codes[layer.path].dequantised(self.base.dtype)

    @torch.no_grad()
    def start(self, seed: int) -> None:
        super().start(seed)
        if self.settings.start == "loftq":
            for a, b, (first, second) in zip(self.A, self.B, self._loftq(), strict=True):
                a.copy_(first)
                b.copy_(second)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        super().restore(tensors, folder)
        if self.settings.start == "loftq" and self.settings.loftq_rounds > 1:
            self._loftq()

    def places(self) -> Iterator[tuple[str, Hook]]:
        if self.codes is not None:
            for linear in self.base.hooks.linears:
                yield linear.path, StandIn(self.codes[linear.path], linear)
        yield from super().places()

    def merged_parameters(self, mode: str = "dequant16") -> Iterator[tuple[str, Tensor]]:
        """(full name of a parameter, its new value as the base stores it), one by one.

        Args:
            mode: one of MERGES.

        Raises:
            ConfigError: an unknown mode, or the base's own weights are gone.
        """
        if mode not in MERGES:
            raise ConfigError(
                f"There is no merge mode {mode!r}.", f"use one of: {', '.join(MERGES)}."
            )
        if mode == "original16" and self.codes is None:
            raise ConfigError(
                "original16 adds to the base's own weights, and the base holds codes alone.",
                "load the base without `quantise`, or merge as dequant16.",
            )
        changes = {layer.path: change for layer, change in self.changes()}
        for layer in self.base.hooks.linears:
            change = changes.get(layer.path)
            if mode == "original16":
                weight_OI = layer.weight_OI.float()
                if change is None:
                    continue
            else:
                weight_OI = self.weight_OI(layer).float()
            if change is not None:
                weight_OI = weight_OI + change.product_OI()
                if mode == "requant4":
                    kind, double = self.settings.quantise, self.settings.double_quantise
                    weight_OI = quantise(weight_OI, kind, double=double).dequantised(torch.float32)
            yield f"{layer.path}.weight", self.as_stored(layer, weight_OI)
        yield from self.merged_rows()


def _words(held: tuple[str, bool]) -> str:
    return f"{held[0]} {'with' if held[1] else 'without'} doubly quantised scales"


@METHODS.register
class Qlora(Lora):
    """Low-rank adaptation of a base in 4 bits."""

    Settings = QloraSettings
    Adapter = QloraAdapter
    summary = "LoRA over 4-bit weights: a quarter of the base's memory, slower; merges."
    identity_start = False
    """Not the base: its weights in 4 bits."""
    learning_rate: ClassVar = {"small": 1e-3, "large": 2e-4}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
    merge_rtol: ClassVar = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
    """Of the merge dequant16. bfloat16 rounds every merged weight to 8 bits."""
