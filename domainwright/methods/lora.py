"""LoRA: learn a low-rank change to frozen linear layers.

    y = W x + b + γ · B A drop(x)        γ = alpha / rank, or alpha / √rank with `rslora`

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; rsLoRA: Kalajdzievski 2023,
arXiv:2312.03732. A starts random, B starts at zero, so before the first step the model is
exactly the base. With `rate_ratio` above 1, B learns faster than A (LoRA+: Hayou et al.
2024, arXiv:2402.12354).

Dimension key: I inputs of the layer, O outputs, R rank.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _peft_format
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.hooks import Hook
from domainwright.models.lowrank import LowRank
from domainwright.models.points import Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    rank: int = 16
    """Rank of the change. Costs rank · (I + O) parameters per layer."""
    alpha: float = 32.0
    """The change is multiplied by alpha / rank, so rank can vary at a fixed strength."""
    dropout: float = 0.0
    """Share of the branch's inputs set to zero in training. In [0, 1)."""
    targets: tuple[str, ...] = ("all-linear",)
    """Hook points ("q", "v", "down"), module names ("q_proj"), or "all-linear"."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Other ranks for some layers: {end of the module path, as a regular expression: rank}."""
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """Other alphas for some layers, named in the same way."""
    rslora: bool = False
    """Multiply by alpha / √rank, so that large ranks learn as fast as small ones."""
    rate_ratio: float = 1.0
    """Learning rate of B over that of A. LoRA+ takes 16, with a quarter of the rate for A."""

    def __post_init__(self) -> None:
        for rank in (self.rank, *self.rank_pattern.values()):
            if rank < 1:
                raise ConfigError(
                    f"lora.rank is {rank}; a rank below 1 changes nothing.",
                    "give a rank such as 16.",
                )
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"lora.dropout is {self.dropout}, outside [0, 1).", "give a share such as 0.05."
            )
        if self.rate_ratio <= 0:
            raise ConfigError(
                f"lora.rate_ratio is {self.rate_ratio}, not above 0.", "give 1 or 16 (LoRA+)."
            )

    def rank_of(self, path: str) -> int:
        return int(_first(self.rank_pattern, path, self.rank))

    def scale_of(self, path: str) -> float:
        rank = self.rank_of(path)
        alpha = float(_first(self.alpha_pattern, path, self.alpha))
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def _first(pattern: Mapping[str, float], path: str, otherwise: float) -> float:
    """The value of the first key that ends the path, as PEFT matches them."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return otherwise


def choose(linears: list[Linear], targets: tuple[str, ...]) -> list[Linear]:
    """The layers `targets` name, by hook point or by the end of the module path.

    Raises:
        ConfigError: a target that matches no layer.
    """
    if targets == ("all-linear",):
        return linears
    found: dict[str, Linear] = {}
    for target in targets:
        hits = [
            x
            for x in linears
            if x.point == target or x.path == target or x.path.endswith("." + target)
        ]
        if not hits:
            known = sorted({x.point for x in linears})
            raise ConfigError(
                f"lora.targets names {target!r}, which matches no layer.",
                f"use all-linear or hook points among: {', '.join(known)}.",
            )
        found.update((x.path, x) for x in hits)
    return [x for x in linears if x.path in found]


class LoraAdapter(Adapter):
    """A and B per chosen layer, float32 whatever the base's dtype.

    bfloat16 keeps 8 significant bits: a step below 1/512 of a weight would be no step at all.
    """

    method, version = "lora", 1

    def __init__(self, base: Base, settings: LoraSettings, layers: list[Linear]) -> None:
        super().__init__(base, settings)
        self.layers = layers
        device, rank_of = base.device, settings.rank_of
        self.A = nn.ParameterList(
            nn.Parameter(torch.zeros(rank_of(x.path), x.inputs, device=device)) for x in layers
        )
        self.B = nn.ParameterList(
            nn.Parameter(torch.zeros(x.outputs, rank_of(x.path), device=device)) for x in layers
        )

    def places(self) -> Iterator[tuple[str, Hook]]:
        for layer, a, b in zip(self.layers, self.A, self.B, strict=True):
            scale = self.settings.scale_of(layer.path)
            yield layer.path, LowRank(a, b, scale, self.settings.dropout)

    def start(self, seed: int) -> None:
        """A ~ U(-1/√I, 1/√I), PEFT's kaiming_uniform(√5); B = 0."""
        for layer, a in zip(self.layers, self.A, strict=True):
            bound = 1 / math.sqrt(layer.inputs)
            # Drawn on the CPU by the layer's name: equal on every device and for every subset.
            source = torch.Generator().manual_seed(derive(seed, "lora", layer.path))
            with torch.no_grad():
                a.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=source))

    def rate_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        first = list(self.A)
        rest = [p for p in self.parameters() if not any(p is a for a in first)]
        return [(first, 1.0), (rest, self.settings.rate_ratio)]

    def changed_OI(self, layer: Linear, a: Tensor, b: Tensor) -> Tensor:
        """W + γ B A in float32."""
        return layer.weight_OI.float() + self.settings.scale_of(layer.path) * (b @ a)

    def merged_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for layer, a, b in zip(self.layers, self.A, self.B, strict=True):
            yield f"{layer.path}.weight", self.as_stored(layer, self.changed_OI(layer, a, b))

    def as_stored(self, layer: Linear, weight_OI: Tensor) -> Tensor:
        stored = weight_OI.T if layer.transposed else weight_OI
        return stored.detach().to(self.base.dtype).contiguous()

    def stored(self) -> dict[str, Tensor]:
        """The tensors by PEFT's names."""
        found: dict[str, Tensor] = {}
        for layer, a, b in zip(self.layers, self.A, self.B, strict=True):
            found[f"{layer.path}.lora_A.weight"] = a
            found[f"{layer.path}.lora_B.weight"] = b
        return found

    def save(self, folder: Path) -> None:
        _peft_format.write(folder, self.peft_config(), self.stored(), self.notes())

    def peft_config(self) -> dict[str, Any]:
        settings = self.settings
        paths = [x.path for x in self.layers]
        return {
            **_peft_format.common("LORA", self.base.source.name, paths),
            "r": settings.rank,
            "lora_alpha": settings.alpha,
            "lora_dropout": settings.dropout,
            "bias": "none",
            "use_rslora": settings.rslora,
            "use_dora": False,
            "init_lora_weights": True,
            "fan_in_fan_out": any(x.transposed for x in self.layers),
            "rank_pattern": settings.rank_pattern,
            "alpha_pattern": settings.alpha_pattern,
        }


@METHODS.register
class Lora:
    """Low-rank adaptation."""

    Settings = LoraSettings
    version = 1
    summary = "A low-rank change beside every linear layer; merges into the base."
    parameter_formula = "rank · Σ (inputs + outputs) over the chosen layers"
    peft_type: ClassVar[str | None] = "LORA"
    identity_start = True
    random_start = True
    learning_rate: ClassVar = {"small": 1e-3, "large": 2e-4}
    """Below and from one billion parameters; methods.md §15.3 and its first readings."""
    merge_rtol: ClassVar = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
    """Largest relative error of merged logits. bfloat16 rounds every merged weight to 8 bits."""

    @staticmethod
    def build(base: Base, settings: LoraSettings, seed: int) -> LoraAdapter:
        """A fresh adapter, which changes nothing yet."""
        adapter = LoraAdapter(base, settings, choose(base.hooks.linears, settings.targets))
        adapter.start(seed)
        return adapter

    @staticmethod
    def load(base: Base, folder: Path) -> LoraAdapter:
        """An adapter saved by us or by PEFT, checked key by key.

        Raises:
            DataError: another base, a missing or surplus tensor, or a LoRA variant that this
                method does not compute.
        """
        return load(base, folder, LoraSettings, LoraAdapter)


S = TypeVar("S", bound=LoraSettings)
A = TypeVar("A", bound=LoraAdapter)


def load(base: Base, folder: Path, settings_of: type[S], adapter_of: type[A]) -> A:
    """An adapter of the LoRA family; `adapter_of` says which."""
    config, tensors, noted = _peft_format.read(folder)
    _peft_format.check_base(noted, base.sha256, base.source.name, folder)
    _check_variant(config, adapter_of, folder)
    linears = base.hooks.linears
    paths = {name.rsplit(".lora_", 1)[0] for name in tensors}
    strange = paths - {x.path for x in linears}
    if strange:
        raise DataError(
            f"{folder} adapts {min(strange)!r}, which the base does not have.",
            "load it on the base it was trained on.",
        )
    settings = settings_of(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        dropout=float(config.get("lora_dropout", 0.0)),
        targets=tuple(sorted(paths)),
        rank_pattern=dict(config.get("rank_pattern") or {}),
        alpha_pattern=dict(config.get("alpha_pattern") or {}),
        rslora=bool(config.get("use_rslora")),
        rate_ratio=float(noted.get("settings", {}).get("rate_ratio", 1.0)),
    )
    # What the config declares counts as well: PEFT leaves a layer without tensors bare.
    paths |= _peft_format.declared(config, {x.path: x.block for x in linears})
    adapter = adapter_of(base, settings, [x for x in linears if x.path in paths])
    _peft_format.fill(adapter.stored(), tensors, folder)
    return adapter


_VARIANTS = (
    "modules_to_save",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "arrow_config",
)
"""Settings of PEFT's LoraConfig that change what is computed."""


def _check_variant(config: dict[str, Any], kind: type[LoraAdapter], folder: Path) -> None:
    found = {key: config[key] for key in _VARIANTS if config.get(key)}
    if bool(config.get("use_dora")) != (kind.method == "dora"):
        found["use_dora"] = config.get("use_dora", False)
    if config.get("peft_type") != "LORA":
        found = {"peft_type": config.get("peft_type")}
    # Other named starts (PiSSA, OLoRA, …) also changed the weights of the base.
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start not in ("gaussian", "eva", "orthogonal"):
        found["init_lora_weights"] = start
    for key, value in found.items():
        other = "lora" if kind.method == "dora" else "dora"
        raise DataError(
            f"{folder} uses {key} = {value!r}, which {kind.method}@{kind.version} does not "
            "compute.",
            f"load it with {other if key == 'use_dora' else 'PEFT'}, or train it again with "
            f"{kind.method}.",
        )
