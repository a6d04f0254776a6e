"""Adapter layers: a small network with a narrow middle in every block.

    Ad(z) = s · (U f(D z + c_D) + c_U)

    houlsby    x1 = x0 + u + Ad(u)         x2 = x1 + w + Ad(w)
    pfeiffer   x2 = t + Ad(t)              t = x1 + w, the block's output
    parallel   x2 = x1 + w + Ad(x1)        or Ad(norm(x1)) with `parallel_input: normed`

u and w are what attention and the feed-forward part add to the residual stream (methods.md
§2.1); the scale is on the bias c_U too, as in adapter-hub. U and both biases start at zero, so
before the first step the model is exactly the base, unless `initial` says otherwise. The change
is not linear, so it cannot be merged. Folders are in adapter-hub's layout where its library can
compute what they hold, and else in one of ours.

Sources: Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247; He et
al. 2022, arXiv:2110.04366; AdapterDrop: Rücklé et al. 2021, arXiv:2010.11918.

Dimension key: D hidden size, M width of the middle.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from domainwright.core.errors import ConfigError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _adapter_hub, _peft_format, _weights
from domainwright.methods._adapter import Adapter
from domainwright.methods._layers import Drop, hooks_of, places_of
from domainwright.methods.layernorm import LayernormAdapter, LayernormSettings
from domainwright.models.base import Base
from domainwright.models.hooks import Hook

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
INITIAL = {"zero": "mam_adapter", "houlsby": "houlsby", "bert": "bert"}
"""Our names of the ways to begin -> adapter-hub's."""


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
    """What the parallel layers read: the stream itself (as adapter-hub), or its norm. With the
    stream, runs on SmolLM2-135M diverged at the default rate; with the norm they learned."""
    initial: Literal["zero", "houlsby", "bert"] = "zero"
    """Weights at the start: U zero, exactly the base; or near it, with both matrices from
    N(0, 0.01²) cut at two deviations (houlsby) or N(0, 0.02²) (bert)."""
    train_layernorm: bool = False
    """Train all norms as well, as Houlsby et al. did."""
    drop_first: int = 0
    """Blocks from the first on that have no layers (AdapterDrop)."""
    drop_random: bool = False
    """In each training step, leave out the layers of as many first blocks as chance says, from
    `drop_first` on (robust AdapterDrop); answers use all of them."""

    def __post_init__(self) -> None:
        offered = {"variant": list(USUAL), "initial": list(INITIAL), "function": list(FUNCTIONS)}
        for name, known in offered.items():
            value = getattr(self, name)
            if value not in known and not (name == "function" and value is None):
                raise ConfigError(
                    f"bottleneck.{name} is {value!r}.", f"choose one of: {', '.join(known)}."
                )
        if self.reduction is not None and self.reduction <= 0:
            raise ConfigError(
                f"bottleneck.reduction is {self.reduction}, not above 0.",
                "give a factor such as 16.",
            )
        if self.drop_first < 0:
            raise ConfigError(
                f"bottleneck.drop_first is {self.drop_first}.", "give a number of blocks from 0."
            )

    def width(self, hidden: int) -> int:
        reduction = USUAL[self.variant][1] if self.reduction is None else self.reduction
        # Floor division, as adapter-hub: in floating point 576 / 28.8 and 576 // 28.8 differ.
        return max(1, int(hidden // reduction))

    @property
    def chosen(self) -> tuple[str, float, float]:
        """(non-linearity, reduction, scale)."""
        function, reduction, scale = USUAL[self.variant]
        return (
            self.function or function,
            reduction if self.reduction is None else self.reduction,
            scale if self.scale is None else self.scale,
        )


class _Layer(nn.Module):
    """Ad, in float32 whatever the base's dtype."""

    def __init__(self, hidden: int, settings: BottleneckSettings, device: torch.device) -> None:
        super().__init__()
        width = settings.width(hidden)
        function, _, self.scale = settings.chosen
        self.function = FUNCTIONS[function]
        self.down_MD = nn.Parameter(torch.zeros(width, hidden, device=device))
        self.down_bias_M = nn.Parameter(torch.zeros(width, device=device))
        self.up_DM = nn.Parameter(torch.zeros(hidden, width, device=device))
        self.up_bias_D = nn.Parameter(torch.zeros(hidden, device=device))

    def forward(self, z: Tensor) -> Tensor:
        middle = self.function(functional.linear(z.float(), self.down_MD, self.down_bias_M))
        return self.scale * functional.linear(middle, self.up_DM, self.up_bias_D)

    @torch.no_grad()
    def start(self, initial: str, source: torch.Generator) -> None:
        """Draw the matrices on the CPU: equal on every device."""
        for matrix in (self.down_MD,) if initial == "zero" else (self.down_MD, self.up_DM):
            drawn, bound = torch.empty(matrix.shape), matrix.shape[1] ** -0.5
            if initial == "zero":
                drawn.uniform_(-bound, bound, generator=source)
            elif initial == "houlsby":
                nn.init.trunc_normal_(drawn, std=0.01, a=-0.02, b=0.02, generator=source)
            else:
                drawn.normal_(std=0.02, generator=source)
            matrix.copy_(drawn)


class BottleneckAdapter(Adapter):
    """One or two layers a block."""

    method, version = "bottleneck", 2

    def __init__(self, base: Base, settings: BottleneckSettings) -> None:
        super().__init__(base, settings)
        blocks = len(base.hooks.at("block"))
        if settings.drop_first >= blocks:
            raise ConfigError(
                f"bottleneck.drop_first is {settings.drop_first}, and {base.source.name} has "
                f"{blocks} blocks: no layer would be left.",
                f"give at most {blocks - 1}.",
            )
        self.where = list(places_of(base, settings.variant, settings.drop_first))
        self.drop = Drop(settings.drop_random, settings.drop_first, blocks)
        hidden = int(base.model.config.get_text_config().hidden_size)
        self.layers = nn.ModuleList(_Layer(hidden, settings, base.device) for _ in self.where)
        self.norms: LayernormAdapter | None = None
        if settings.train_layernorm:
            self.norms = LayernormAdapter(base, LayernormSettings(), base.hooks.at("norm"))
            # A norm has one gain for all rows.
            self.shares_batch = False  # type: ignore[misc]

    def places(self) -> Iterator[tuple[str, Hook]]:
        normed = self.settings.parallel_input == "normed"
        for place, layer in zip(self.where, self.layers, strict=True):
            yield from hooks_of(place, layer, self.drop, normed=normed)

    def replacements(self) -> Iterator[tuple[str, nn.Parameter]]:
        if self.norms is not None:
            yield from self.norms.replacements()

    def start(self, seed: int) -> None:
        for place, layer in zip(self.where, self.layers, strict=True):
            assert isinstance(layer, _Layer)
            source = torch.Generator().manual_seed(derive(seed, "bottleneck", place.paths[-1]))
            layer.start(self.settings.initial, source)

    def stored(self, name: str = _adapter_hub.NAME) -> dict[str, Tensor]:
        """The tensors by adapter-hub's names, of an adapter called `name`; norms by their own."""
        found: dict[str, Tensor] = {}
        for place, layer in zip(self.where, self.layers, strict=True):
            for ours, theirs in TENSORS.items():
                path = _adapter_hub.name_of(place.block_path, place.part, name, theirs)
                found[path] = getattr(layer, ours).data
        return found | ({} if self.norms is None else self.norms.stored())

    def save(self, folder: Path) -> None:
        notes, settings = self.notes(), self.settings
        if settings.train_layernorm or settings.parallel_input == "normed":
            # The library would load the layers and compute something else.
            _peft_format.write(folder, notes, self.stored(), notes, prefix="")
            return
        function, reduction, scale = settings.chosen
        config = {
            **VARIANTS[settings.variant],
            "non_linearity": _adapter_hub.FUNCTIONS[function],
            "reduction_factor": reduction,
            "scaling": float(scale),
            "init_weights": INITIAL[settings.initial],
            "leave_out": list(range(settings.drop_first)),
            "phm_layer": False,
            "phm_dim": 4,
        }
        _adapter_hub.write(folder, self.base, config, self.stored(), notes)


TENSORS = {
    "down_MD": "adapter_down.0.weight",
    "down_bias_M": "adapter_down.0.bias",
    "up_DM": "adapter_up.weight",
    "up_bias_D": "adapter_up.bias",
}
"""Our names of a layer's tensors -> adapter-hub's."""
VARIANTS: dict[str, dict[str, Any]] = {
    "houlsby": {"mh_adapter": True, "output_adapter": True, "original_ln_before": False}
    | {"is_parallel": False},
    "pfeiffer": {"mh_adapter": False, "output_adapter": True, "original_ln_before": True}
    | {"is_parallel": False},
    "parallel": {"mh_adapter": False, "output_adapter": True, "original_ln_before": False}
    | {"is_parallel": True},
}
"""Settings of adapter-hub's BnConfig that say where the layers sit."""


def variant_of(config: dict[str, Any], method: str, folder: Path) -> str:
    """The variant that a BnConfig of adapter-hub describes.

    Raises:
        DataError: none of ours.
    """
    for variant, told in VARIANTS.items():
        # Where the input norm is applied matters to layers behind the feed-forward part alone.
        if all(config.get(key, False) == value for key, value in told.items()):
            return variant
    _adapter_hub.refuse("mh_adapter", config.get("mh_adapter"), method, folder)


def _adapter(base: Base, settings: BottleneckSettings) -> BottleneckAdapter:
    return BottleneckAdapter(base, settings)


def _from_hub(base: Base, folder: Path) -> BottleneckAdapter:
    config, name, tensors, noted = _adapter_hub.read(folder)
    if noted:
        _peft_format.check_method(noted, "bottleneck", folder)
        _peft_format.check_base(noted, base.sha256, base.source.name, folder)
    _adapter_hub.check_plain(config, "bottleneck@2", folder)
    if config.get("phm_layer"):
        _adapter_hub.refuse("phm_layer", True, "bottleneck@2", folder)
    factors = {key: config.get(key, 1.0) for key in ("reduction_factor", "scaling")}
    for key, value in factors.items():
        if not isinstance(value, (int, float)):
            _adapter_hub.refuse(key, value, "bottleneck@2", folder)
    settings = BottleneckSettings(
        variant=variant_of(config, "bottleneck@2", folder),  # type: ignore[arg-type]
        reduction=float(factors["reduction_factor"]),
        function=_adapter_hub.function_of(config, "bottleneck@2", folder),  # type: ignore[arg-type]
        scale=float(factors["scaling"]),
        drop_first=_adapter_hub.left_out(config, "bottleneck@2", folder),
    )
    if noted:
        settings = BottleneckSettings(**noted["settings"])
    adapter = BottleneckAdapter(base, settings)
    _peft_format.fill(adapter.stored(name), tensors, folder)
    return adapter


@METHODS.register
class Bottleneck:
    """Adapter layers of Houlsby, Pfeiffer and He."""

    Settings = BottleneckSettings
    version = 2
    summary = "Adapter layers: a narrow network in every block; not merged, adapter-hub's files."
    parameter_formula = "layers · (2 · width · hidden + width + hidden); houlsby has 2 per block"
    peft_type: ClassVar[str | None] = None
    identity_start = True
    random_start = True
    learning_rate: ClassVar = {"small": 1e-3, "large": 1e-4}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    @staticmethod
    def build(base: Base, settings: BottleneckSettings, seed: int) -> BottleneckAdapter:
        """A fresh adapter. D ~ U(-1/√D, 1/√D), kaiming_uniform(√5); U = 0.

        Raises:
            CapabilityError: the base has no place for this variant.
            ConfigError: `drop_first` leaves no block.
        """
        adapter = BottleneckAdapter(base, settings)
        adapter.start(seed)
        return adapter

    @staticmethod
    def load(base: Base, folder: Path) -> BottleneckAdapter:
        """An adapter saved by us or by adapter-hub, checked key by key.

        Raises:
            DataError: another base or method, a missing or surplus tensor, or layers that this
                method does not compute.
        """
        if _adapter_hub.is_folder(folder) or not (folder / "adapter_model.safetensors").is_file():
            return _from_hub(base, folder)
        adapter: BottleneckAdapter = _weights.load(Bottleneck, _adapter, base, folder)
        return adapter
