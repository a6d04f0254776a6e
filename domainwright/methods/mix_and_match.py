"""Mix-and-match: a prefix on attention and a parallel adapter layer beside the feed-forward part.

    K_ℓ, V_ℓ ← [Kp_ℓ ; K_ℓ], [Vp_ℓ ; V_ℓ]      x2 = x1 + w + s · (U f(D n2 + c_D) + c_U)

Source: He et al. 2022, arXiv:2110.04366, section 4.6 (MAM adapter): a short prefix serves
attention, most of the parameters serve the feed-forward part. Both halves are the methods
`prefix` and `bottleneck`; they start as those do. The halves want learning rates far apart, so
the rate is that of the layers, and `rate_ratio` times it that of the prefix.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from domainwright.core.errors import ConfigError
from domainwright.methods import METHODS, _peft_format, _prompts, _weights
from domainwright.methods._adapter import Adapter
from domainwright.methods.bottleneck import BottleneckAdapter, BottleneckSettings
from domainwright.methods.prefix import PrefixAdapter, PrefixSettings, begun
from domainwright.models.base import Base
from domainwright.models.hooks import Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class MixAndMatchSettings:
    rows: int = 30
    """Keys and values of the prefix in each layer."""
    text: str = _prompts.INSTRUCTION
    """What the prefix starts from: an instruction of the domain."""
    reduction: float = 2.0
    """Hidden size over the width of the adapter layers."""
    scale: float = 4.0
    """What the adapter layers add is multiplied by it."""
    parallel_input: Literal["residual", "normed"] = "normed"
    """What the adapter layers read: the norm of the stream, as in the paper, whose base normalises
    it; or the stream itself (as adapter-hub), with which runs on SmolLM2-135M diverged."""
    rate_ratio: float = 20.0
    """Learning rate of the prefix over that of the layers; 1e-2 and 5e-4 in methods.md §15.3."""

    def __post_init__(self) -> None:
        if self.rate_ratio <= 0:
            raise ConfigError(
                f"mix_and_match.rate_ratio is {self.rate_ratio}, not above 0.",
                "give a factor such as 20.",
            )
        _ = self.prefix, self.layers

    @property
    def prefix(self) -> PrefixSettings:
        return PrefixSettings(rows=self.rows, text=self.text)

    @property
    def layers(self) -> BottleneckSettings:
        return BottleneckSettings(
            variant="parallel",
            reduction=self.reduction,
            scale=self.scale,
            parallel_input=self.parallel_input,
        )


class MixAndMatchAdapter(Adapter):
    """A prefix and adapter layers, hung on the base as one.

    Args:
        start: the prefix's table (P, 2L, K, h) as it begins.
    """

    method, version = "mix_and_match", 1

    def __init__(self, base: Base, settings: MixAndMatchSettings, start: Tensor) -> None:
        super().__init__(base, settings)
        self.prefix = PrefixAdapter(base, settings.prefix, start)
        self.layers = BottleneckAdapter(base, settings.layers)

    def places(self) -> Iterator[tuple[str, Hook]]:
        yield from self.prefix.places()
        yield from self.layers.places()

    def rate_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        return [
            (list(self.layers.parameters()), 1.0),
            (list(self.prefix.parameters()), self.settings.rate_ratio),
        ]

    def stored(self) -> dict[str, Tensor]:
        return {"prefix": self.prefix.made().data} | self.layers.stored()

    def save(self, folder: Path) -> None:
        notes = self.notes()
        _peft_format.write(folder, notes, self.stored(), notes, prefix="")


def _adapter(base: Base, settings: MixAndMatchSettings) -> MixAndMatchAdapter:
    return MixAndMatchAdapter(base, settings, begun(base, settings.prefix, 0))


@METHODS.register
class MixAndMatch:
    """A prefix with parallel adapter layers."""

    Settings = MixAndMatchSettings
    version = 1
    summary = "A prefix on attention and a parallel adapter layer in every block, as one."
    parameter_formula = "layers · (2 · rows · keys per layer + 2 · width · hidden + width + hidden)"
    peft_type: ClassVar[str | None] = None
    identity_start = False
    random_start = True
    learning_rate: ClassVar = {"small": 5e-4, "large": 1e-4}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    @staticmethod
    def build(base: Base, settings: MixAndMatchSettings, seed: int) -> MixAndMatchAdapter:
        """A fresh adapter.

        Raises:
            CapabilityError: the base has no attention that takes more keys, or no place for the
                layers.
        """
        _prompts.attending(base, "mix_and_match")
        adapter = _adapter(base, settings)
        adapter.layers.start(seed)
        return adapter

    @staticmethod
    def load(base: Base, folder: Path) -> MixAndMatchAdapter:
        """An adapter saved by us, checked key by key.

        Raises:
            DataError: another base or method, a missing or surplus tensor.
        """
        adapter: MixAndMatchAdapter = _weights.load(MixAndMatch, _adapter, base, folder)
        return adapter
