"""LoRA: learn a low-rank change to frozen linear layers.

    y = W x + b + (alpha / rank) · B A drop(x)

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1. A starts random, B starts at zero, so
before the first step the model is exactly the base.

Dimension key: I inputs of the layer, O outputs, R rank.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from domainwright.core.config import as_mapping
from domainwright.core.errors import ConfigError, DataError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _peft_format
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.hooks import Linear, LowRank


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

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(
                f"lora.rank is {self.rank}; a rank below 1 changes nothing.",
                "give a rank such as 16.",
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"lora.dropout is {self.dropout}, outside [0, 1).", "give a share such as 0.05."
            )


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
        device = base.device
        self.A = nn.ParameterList(
            nn.Parameter(torch.zeros(settings.rank, x.inputs, device=device)) for x in layers
        )
        self.B = nn.ParameterList(
            nn.Parameter(torch.zeros(x.outputs, settings.rank, device=device)) for x in layers
        )
        self._hooks: list[LowRank] = []

    @property
    def scale(self) -> float:
        return float(self.settings.alpha / self.settings.rank)

    def attach(self) -> None:
        if self._hooks:
            return
        for layer, a, b in zip(self.layers, self.A, self.B, strict=True):
            hook = LowRank(a, b, self.scale, self.settings.dropout)
            self.base.hooks.add(layer.path, hook, self)
            self._hooks.append(hook)

    def detach(self) -> None:
        for hook in self._hooks:
            self.base.hooks.remove(hook)
        self._hooks.clear()

    def merged_weights(self) -> Iterator[tuple[str, Tensor]]:
        for layer, a, b in zip(self.layers, self.A, self.B, strict=True):
            merged_OI = layer.weight_OI.float() + self.scale * (b @ a)
            stored = merged_OI.T if layer.transposed else merged_OI
            yield layer.path, stored.to(self.base.dtype).contiguous()

    def save(self, folder: Path) -> None:
        tensors: dict[str, Tensor] = {}
        for layer, a, b in zip(self.layers, self.A, self.B, strict=True):
            tensors[f"{layer.path}.lora_A.weight"] = a
            tensors[f"{layer.path}.lora_B.weight"] = b
        _peft_format.write(
            folder,
            self._peft_config(),
            tensors,
            {
                "method": f"{self.method}@{self.version}",
                "base": self.base.source.name,
                "base_sha256": self.base.sha256,
                "settings": as_mapping(self.settings),
            },
        )

    def _peft_config(self) -> dict[str, Any]:
        # Full module paths: a bare suffix such as "dense" can match other layers in PEFT.
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "inference_mode": True,
            "base_model_name_or_path": self.base.source.name,
            "revision": None,
            "r": self.settings.rank,
            "lora_alpha": self.settings.alpha,
            "lora_dropout": self.settings.dropout,
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
            "modules_to_save": None,
            "fan_in_fan_out": any(x.transposed for x in self.layers),
            "target_modules": [x.path for x in self.layers],
            "rank_pattern": {},
            "alpha_pattern": {},
        }


@METHODS.register
class Lora:
    """Low-rank adaptation."""

    Settings = LoraSettings
    version = 1
    summary = "A low-rank change beside every linear layer; merges into the base."
    parameter_formula = "rank · Σ (inputs + outputs) over the chosen layers"
    learning_rate: ClassVar = {"small": 1e-3, "large": 2e-4}
    """Below and from one billion parameters; methods.md §15.3 and its first readings."""
    merge_rtol: ClassVar = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
    """Largest relative error of merged logits. bfloat16 rounds every merged weight to 8 bits."""

    @staticmethod
    def build(base: Base, settings: LoraSettings, seed: int) -> LoraAdapter:
        """A fresh adapter. A ~ U(-1/√I, 1/√I), PEFT's kaiming_uniform(√5); B = 0."""
        layers = choose(base.hooks.linears, settings.targets)
        adapter = LoraAdapter(base, settings, layers)
        for layer, a in zip(layers, adapter.A, strict=True):
            bound = 1 / math.sqrt(layer.inputs)
            # Drawn on the CPU by the layer's name: equal on every device and for every subset.
            source = torch.Generator().manual_seed(derive(seed, "lora", layer.path))
            with torch.no_grad():
                a.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=source))
        return adapter

    @staticmethod
    def load(base: Base, folder: Path) -> LoraAdapter:
        """An adapter saved by us or by PEFT, checked key by key.

        Raises:
            DataError: another base, a missing or surplus tensor, or a LoRA variant that this
                method does not compute.
        """
        config, tensors, noted = _peft_format.read(folder)
        _peft_format.check_base(noted, base.sha256, base.source.name, folder)
        _check_plain(config, folder)
        paths = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
        by_path = {x.path: x for x in base.hooks.linears}
        strange = [p for p in paths if p not in by_path]
        if strange:
            raise DataError(
                f"{folder} adapts {strange[0]!r}, which the base does not have.",
                "load it on the base it was trained on.",
            )
        settings = LoraSettings(
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            dropout=float(config.get("lora_dropout", 0.0)),
            targets=tuple(paths),
        )
        adapter = LoraAdapter(base, settings, [x for x in base.hooks.linears if x.path in paths])
        wanted = {f"{x.path}.lora_{side}.weight" for x in adapter.layers for side in "AB"}
        _check_keys(wanted, set(tensors), _declared(config, base), folder)
        for layer, a, b in zip(adapter.layers, adapter.A, adapter.B, strict=True):
            for side, target in (("A", a), ("B", b)):
                value = tensors[f"{layer.path}.lora_{side}.weight"]
                if value.shape != target.shape:
                    raise DataError(
                        f"{layer.path}.lora_{side} has the shape {tuple(value.shape)}, "
                        f"not {tuple(target.shape)}.",
                        "load it on the base it was trained on.",
                    )
                with torch.no_grad():
                    target.copy_(value)
        return adapter


_VARIANTS = (
    "use_dora",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
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


def _check_plain(config: dict[str, Any], folder: Path) -> None:
    found = {key: config[key] for key in _VARIANTS if config.get(key)}
    if config.get("peft_type") != "LORA":
        found = {"peft_type": config.get("peft_type")}
    # Other named starts (PiSSA, OLoRA, …) also changed the weights of the base.
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start not in ("gaussian", "eva", "orthogonal"):
        found["init_lora_weights"] = start
    for key, value in found.items():
        raise DataError(
            f"{folder} uses {key} = {value!r}, which lora@1 does not compute.",
            "load it with PEFT, or train it again with lora.",
        )


def _declared(config: dict[str, Any], base: Base) -> set[str]:
    """Layers that the config says are adapted, by PEFT's matching rules."""
    blocks = config.get("layers_to_transform")
    if isinstance(blocks, int):
        blocks = [blocks]
    return {
        x.path
        for x in base.hooks.linears
        if _named(config["target_modules"], x.path)
        and not _named(config.get("exclude_modules") or [], x.path)
        and (not blocks or x.block in blocks)
    }


def _named(rule: str | list[str], path: str) -> bool:
    if isinstance(rule, str):
        return rule == "all-linear" or re.fullmatch(rule, path) is not None
    return any(path == t or path.endswith("." + t) for t in rule)


def _check_keys(wanted: set[str], present: set[str], declared: set[str], folder: Path) -> None:
    missing = wanted - present | {
        f"{p}.lora_{side}.weight"
        for p in declared
        for side in "AB"
        if f"{p}.lora_{side}.weight" not in present
    }
    surplus = present - wanted
    if missing or surplus:
        what = f"lacks {sorted(missing)[0]!r}" if missing else f"holds {sorted(surplus)[0]!r} too"
        raise DataError(
            f"{folder} {what} ({len(missing)} missing, {len(surplus)} surplus tensors).",
            "save the adapter again; this file does not match its own config.",
        )
