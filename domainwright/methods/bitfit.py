"""BitFit: learn new values of the bias terms and nothing else.

    y = W x + b  →  y + (b' − b)

Source: Ben Zaken et al. 2022, arXiv:2106.10199, section 3. Biases of linear layers and of
norms, in every block and behind the last; the head's is not one of them. The change is added
at the hook points, so several adapters can live on one base.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from domainwright.core.errors import CapabilityError
from domainwright.methods import METHODS, _weights
from domainwright.methods._weights import WeightsAdapter
from domainwright.models.base import Base
from domainwright.models.hooks import Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class BitfitSettings:
    norms: bool = True
    """Train the offsets of the norms too."""


class _Moved:
    """The layer's output with another bias."""

    def __init__(self, own_O: Tensor, value_O: nn.Parameter) -> None:
        self.own_O, self.value_O = own_O, value_O

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        # Exactly zero at the start, in every dtype.
        return out + (self.value_O - self.own_O.float()).to(out.dtype)


class BitfitAdapter(WeightsAdapter):
    method, version = "bitfit", 1
    shares_batch: ClassVar[bool] = True

    def replacements(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from ()

    def places(self) -> Iterator[tuple[str, Hook]]:
        for name, value in zip(self.names, self.values, strict=True):
            yield name.removesuffix(".bias"), _Moved(self.base.model.get_parameter(name), value)


def _adapter(base: Base, settings: BitfitSettings) -> BitfitAdapter:
    places = [(x.path, x.module) for x in base.hooks.linears]
    if settings.norms:
        places += [(x.path, x.module) for x in base.hooks.at("norm")]
    names = [f"{path}.bias" for path, m in places if getattr(m, "bias", None) is not None]
    if not names:
        raise CapabilityError(
            f"{base.source.name} has no bias terms at its hook points: bitfit would train nothing.",
            "choose ia3, which is as small, or lora.",
        )
    return BitfitAdapter(base, settings, names)


@METHODS.register
class Bitfit:
    """Bias terms."""

    Settings = BitfitSettings
    version = 1
    summary = "New values of the bias terms alone; needs a base that has some (GPT-2, Qwen 2)."
    parameter_formula = "Σ outputs of layers with a bias + hidden size per norm with an offset"
    peft_type: ClassVar[str | None] = None
    identity_start = True
    random_start = False
    learning_rate: ClassVar = {"small": 3e-3, "large": 1e-3}
    """Below and from one billion parameters; methods.md §15.3. No base at hand has biases."""
    merge_rtol: ClassVar = _weights.MERGE_RTOL

    @staticmethod
    def build(base: Base, settings: BitfitSettings, seed: int) -> BitfitAdapter:
        """A fresh adapter: the base's own biases.

        Raises:
            CapabilityError: the base has none.
        """
        return _adapter(base, settings)

    @staticmethod
    def load(base: Base, folder: Path) -> BitfitAdapter:
        """An adapter saved by us.

        Raises:
            DataError: another base, a missing or surplus tensor.
        """
        adapter: BitfitAdapter = _weights.load(Bitfit, _adapter, base, folder)
        return adapter
