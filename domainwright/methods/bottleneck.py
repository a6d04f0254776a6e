"""Adapter layers: a small network with a narrow middle in every block.

    Ad(z) = s · (U f(D z + c_D) + c_U)

    houlsby    x1 = x0 + u + Ad(u)         x2 = x1 + w + Ad(w)
    pfeiffer   x2 = t + Ad(t)              t = x1 + w, the block's output
    parallel   x2 = x1 + w + Ad(x1)        or Ad(norm(x1)) with `parallel_input: normed`

u and w are what attention and the feed-forward part add to the residual stream (methods.md
§2.1). U and its bias start at zero, so before the first step the model is exactly the base.
The change is not linear, so it cannot be merged.

Sources: Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247; He et
al. 2022, arXiv:2110.04366.

Dimension key: D hidden size, M width of the middle.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from domainwright.core.errors import ConfigError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _peft_format, _weights
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.hooks import Hook
from domainwright.models.points import enters_feed_forward, summed

Variant = Literal["houlsby", "pfeiffer", "parallel"]
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}
USUAL = {"houlsby": ("silu", 16.0, 1.0), "pfeiffer": ("relu", 16.0, 1.0)} | {
    "parallel": ("relu", 2.0, 4.0)
}
"""Variant -> (non-linearity, reduction, scale) where the settings leave them open: those of
adapter-hub/adapters, and of He et al. for language modelling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BottleneckSettings:
    variant: Variant = "pfeiffer"
    """Where the layers sit: houlsby (twice a block), pfeiffer (once) or parallel."""
    reduction: float | None = None
    """Hidden size over the width of the middle. None: 16, and 2 for parallel."""
    function: Literal["relu", "gelu", "silu", "tanh"] | None = None
    """Non-linearity. None: silu for houlsby, relu for the others."""
    scale: float | None = None
    """What is added is multiplied by it. None: 1, and 4 for parallel."""
    parallel_input: Literal["residual", "normed"] = "residual"
    """What the parallel layers read: the stream itself (as adapter-hub), or its norm."""

    def __post_init__(self) -> None:
        if self.variant not in USUAL:
            raise ConfigError(
                f"bottleneck.variant is {self.variant!r}.", f"choose one of: {', '.join(USUAL)}."
            )
        if self.reduction is not None and self.reduction <= 0:
            raise ConfigError(
                f"bottleneck.reduction is {self.reduction}, not above 0.",
                "give a factor such as 16.",
            )
        if self.function is not None and self.function not in FUNCTIONS:
            raise ConfigError(
                f"bottleneck.function is {self.function!r}.",
                f"choose one of: {', '.join(FUNCTIONS)}.",
            )

    def width(self, hidden: int) -> int:
        reduction = USUAL[self.variant][1] if self.reduction is None else self.reduction
        return max(1, int(hidden / reduction))


class _Layer(nn.Module):
    """Ad, in float32 whatever the base's dtype."""

    def __init__(self, hidden: int, settings: BottleneckSettings, device: torch.device) -> None:
        super().__init__()
        width = settings.width(hidden)
        function, _, scale = USUAL[settings.variant]
        self.function = FUNCTIONS[settings.function or function]
        self.scale = scale if settings.scale is None else settings.scale
        self.down_MD = nn.Parameter(torch.zeros(width, hidden, device=device))
        self.down_bias_M = nn.Parameter(torch.zeros(width, device=device))
        self.up_DM = nn.Parameter(torch.zeros(hidden, width, device=device))
        self.up_bias_D = nn.Parameter(torch.zeros(hidden, device=device))

    def forward(self, z: Tensor) -> Tensor:
        middle = self.function(functional.linear(z.float(), self.down_MD, self.down_bias_M))
        return self.scale * functional.linear(middle, self.up_DM, self.up_bias_D)


class _After:
    """out + Ad(out)."""

    def __init__(self, layer: _Layer) -> None:
        self.layer = layer

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        return out + self.layer(out).to(out.dtype)


class _Beside:
    """Two hooks: `enter` keeps what the feed-forward part reads, `leave` adds Ad of it."""

    def __init__(self, layer: _Layer, normed: bool) -> None:
        self.layer, self.normed = layer, normed
        # Taken out again at once: a batch is read block by block, and a block that is computed
        # again enters again.
        self.entered: list[Tensor] = []

    def enter(self, x: Tensor, out: Tensor) -> Tensor:
        self.entered = [out if self.normed else x]
        return out

    def leave(self, x: Tensor, out: Tensor) -> Tensor:
        return out + self.layer(self.entered.pop()).to(out.dtype)


class BottleneckAdapter(Adapter):
    """One or two layers a block."""

    method, version = "bottleneck", 1

    def __init__(self, base: Base, settings: BottleneckSettings) -> None:
        super().__init__(base, settings)
        self.points = list(_points(base, settings.variant))
        hidden = int(base.model.config.get_text_config().hidden_size)
        self.layers = nn.ModuleList(_Layer(hidden, settings, base.device) for _ in self.points)

    def places(self) -> Iterator[tuple[str, Hook]]:
        for point, layer in zip(self.points, self.layers, strict=True):
            assert isinstance(layer, _Layer)
            if len(point) == 1:
                yield point[0], _After(layer)
            else:
                beside = _Beside(layer, self.settings.parallel_input == "normed")
                # Bound once: a hook is removed by identity.
                yield point[0], beside.enter
                yield point[1], beside.leave

    def stored(self) -> dict[str, Tensor]:
        """The tensors by the path of the place whose output they change."""
        return {
            f"{point[-1]}.{name}": tensor.data
            for point, layer in zip(self.points, self.layers, strict=True)
            for name, tensor in layer.named_parameters()
        }

    def save(self, folder: Path) -> None:
        notes = self.notes()
        _peft_format.write(folder, notes, self.stored(), notes)


def _points(base: Base, variant: str) -> Iterator[tuple[str, ...]]:
    """The hook points of every layer, in the model's order; two for one that lies beside.

    Raises:
        CapabilityError: a block has no such part.
    """
    linears, sites = base.hooks.linears, base.hooks.sites
    for number, block in enumerate(base.hooks.at("block")):
        if variant == "pfeiffer":
            yield (block.path,)
            continue
        leaving = summed(linears, sites, number, "feed_forward")
        if variant == "houlsby":
            yield (summed(linears, sites, number, "attention"),)
            yield (leaving,)
        else:
            yield enters_feed_forward(sites, number), leaving


def _adapter(base: Base, settings: BottleneckSettings) -> BottleneckAdapter:
    return BottleneckAdapter(base, settings)


@METHODS.register
class Bottleneck:
    """Adapter layers of Houlsby, Pfeiffer and He."""

    Settings = BottleneckSettings
    version = 1
    summary = "Adapter layers: a narrow network in every block; not merged, no PEFT type."
    parameter_formula = "layers · (2 · width · hidden + width + hidden); houlsby has 2 per block"
    peft_type: ClassVar[str | None] = None
    identity_start = True
    random_start = True
    learning_rate: ClassVar = {"small": 1e-3, "large": 1e-4}
    """Below and from one billion parameters; methods.md §15.3, not swept."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    @staticmethod
    def build(base: Base, settings: BottleneckSettings, seed: int) -> BottleneckAdapter:
        """A fresh adapter. D ~ U(-1/√D, 1/√D), kaiming_uniform(√5); U = 0.

        Raises:
            CapabilityError: the base has no place for this variant.
        """
        adapter = BottleneckAdapter(base, settings)
        for point, layer in zip(adapter.points, adapter.layers, strict=True):
            down: Tensor = layer.down_MD  # type: ignore[assignment]
            bound = down.shape[1] ** -0.5
            source = torch.Generator().manual_seed(derive(seed, "bottleneck", point[-1]))
            with torch.no_grad():
                down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=source))
        return adapter

    @staticmethod
    def load(base: Base, folder: Path) -> BottleneckAdapter:
        """An adapter saved by us, checked key by key.

        Raises:
            DataError: another base or method, a missing or surplus tensor.
        """
        adapter: BottleneckAdapter = _weights.load(Bottleneck, _adapter, base, folder)
        return adapter
