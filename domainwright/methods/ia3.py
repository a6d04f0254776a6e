"""(IA)³: learn to amplify or damp keys, values and what the feed-forward part passes on.

    k ← l_k ⊙ k      v ← l_v ⊙ v      w = W_down (l_ff ⊙ g)

Source: Liu et al. 2022, arXiv:2205.05638, section 3.3. All scales start at one, so before the
first step the model is exactly the base. Where keys and values are part of one fused layer
(GPT-2, GPT-NeoX, Phi-3), its whole output is scaled, the queries too, as PEFT does.

Dimension key: I inputs of the layer, O outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from domainwright.core.errors import CapabilityError, DataError
from domainwright.methods import METHODS, _peft_format
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.hooks import Hook
from domainwright.models.points import Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Ia3Settings:
    outputs: tuple[str, ...] = ("k", "v")
    """Hook points whose outputs are scaled; a base without them is scaled at "qkv"."""
    inputs: tuple[str, ...] = ("down",)
    """Hook points whose inputs are scaled."""


class _ScaledOutput:
    def __init__(self, scale_O: nn.Parameter) -> None:
        self.scale_O = scale_O

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        # The bias is scaled too, as in PEFT: what is scaled is the key, not the product.
        return (out * self.scale_O).to(out.dtype)


class _ScaledInput:
    def __init__(self, scale_I: nn.Parameter) -> None:
        self.scale_I = scale_I

    def before(self, x: Tensor) -> Tensor:
        return (x * self.scale_I).to(x.dtype)


class Ia3Adapter(Adapter):
    """One scale per output or input of every chosen layer, float32 whatever the base's dtype."""

    method, version = "ia3", 1

    def __init__(
        self, base: Base, settings: Ia3Settings, scaled: list[tuple[Linear, bool]]
    ) -> None:
        super().__init__(base, settings)
        self.scaled = scaled
        """(layer, whether its input is scaled)."""
        self.scales = nn.ParameterList(
            nn.Parameter(torch.ones(x.inputs if before else x.outputs, device=base.device))
            for x, before in scaled
        )

    def places(self) -> Iterator[tuple[str, Hook]]:
        for (layer, before), scale in zip(self.scaled, self.scales, strict=True):
            hook: Any = _ScaledInput(scale) if before else _ScaledOutput(scale)
            yield layer.path, hook

    def merged_parameters(self) -> Iterator[tuple[str, Tensor]]:
        with torch.no_grad():
            for (layer, before), scale in zip(self.scaled, self.scales, strict=True):
                weight_OI = layer.weight_OI.float() * (scale if before else scale[:, None])
                stored = weight_OI.T if layer.transposed else weight_OI
                yield f"{layer.path}.weight", stored.to(self.base.dtype).contiguous()
                bias = getattr(layer.module, "bias", None)
                if bias is not None and not before:
                    yield f"{layer.path}.bias", (bias.float() * scale).to(self.base.dtype)

    def stored(self) -> dict[str, Tensor]:
        """The tensors by PEFT's names, as views in PEFT's shapes."""
        return {
            f"{layer.path}.ia3_l": scale.data[None] if before else scale.data[:, None]
            for (layer, before), scale in zip(self.scaled, self.scales, strict=True)
        }

    def save(self, folder: Path) -> None:
        paths = [x.path for x, _ in self.scaled]
        config = {
            **_peft_format.common("IA3", self.base.source.name, paths),
            "feedforward_modules": [x.path for x, before in self.scaled if before],
            "fan_in_fan_out": any(x.transposed for x, _ in self.scaled),
            "init_ia3_weights": True,
        }
        _peft_format.write(folder, config, self.stored(), self.notes())


@METHODS.register
class Ia3:
    """Scales on keys, values and the feed-forward part."""

    Settings = Ia3Settings
    version = 1
    summary = "One scale per key, value and feed-forward feature; merges into the base."
    parameter_formula = "Σ outputs of k and v + Σ inputs of down"
    peft_type: ClassVar[str | None] = "IA3"
    identity_start = True
    random_start = False
    learning_rate: ClassVar = {"small": 5e-3, "large": 3e-3}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
    merge_rtol: ClassVar = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
    """Largest relative error of merged logits. bfloat16 rounds every merged weight to 8 bits."""

    @staticmethod
    def build(base: Base, settings: Ia3Settings, seed: int) -> Ia3Adapter:
        """A fresh adapter: every scale is one.

        Raises:
            CapabilityError: the base has no such layers.
        """
        points = {x.point for x in base.hooks.linears}
        outputs = tuple(
            dict.fromkeys(
                "qkv" if p not in points and "qkv" in points else p for p in settings.outputs
            )
        )
        lacking = [p for p in (*outputs, *settings.inputs) if p not in points]
        if lacking or not (outputs or settings.inputs):
            raise CapabilityError(
                f"{base.source.name} has no layer at the hook point {lacking or 'of any kind'}; "
                f"it has {', '.join(sorted(points))}.",
                "set ia3.outputs and ia3.inputs to hook points of this base, or choose lora.",
            )
        scaled = [
            (x, x.point in settings.inputs)
            for x in base.hooks.linears
            if x.point in (*outputs, *settings.inputs)
        ]
        return Ia3Adapter(base, settings, scaled)

    @staticmethod
    def load(base: Base, folder: Path) -> Ia3Adapter:
        """An adapter saved by us or by PEFT, checked key by key.

        Raises:
            DataError: another base, another type, a missing or surplus tensor.
        """
        config, tensors, noted = _peft_format.read(folder)
        _peft_format.check_base(noted, base.sha256, base.source.name, folder)
        _peft_format.check_type(config, "IA3", "ia3@1", folder)
        linears = base.hooks.linears
        chosen = _peft_format.declared(config, {x.path: x.block for x in linears})
        if not chosen:
            raise DataError(
                f"{folder} adapts no layer that the base has.",
                "load it on the base it was trained on.",
            )
        scaled = [
            (x, _peft_format.named(config.get("feedforward_modules"), x.path))
            for x in linears
            if x.path in chosen
        ]
        settings = Ia3Settings(
            outputs=tuple(dict.fromkeys(x.point for x, before in scaled if not before)),
            inputs=tuple(dict.fromkeys(x.point for x, before in scaled if before)),
        )
        adapter = Ia3Adapter(base, settings, scaled)
        _peft_format.fill(adapter.stored(), tensors, folder)
        return adapter
