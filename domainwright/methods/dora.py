"""DoRA: learn the direction of a frozen layer's rows as LoRA does, and their length apart.

    W' = m ⊙ (W + γ B A) / ‖W + γ B A‖        norm of each row; b stays as it is

Source: Liu et al. 2024, arXiv:2402.09353, section 4. m starts as ‖W‖ and B at zero, so before
the first step the model is the base. The norm is a constant in the backward pass (section
4.3), and it is found without W-sized temporaries:

    ‖W + γ B A‖² = ‖W‖² + 2γ · rowsum(W Aᵀ ⊙ B) + γ² · rowsum(B A Aᵀ ⊙ B)

Dimension key: I inputs of the layer, O outputs, R rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from domainwright.methods import METHODS
from domainwright.methods.lora import Lora, LoraAdapter, LoraSettings
from domainwright.models.base import Base
from domainwright.models.hooks import Hook
from domainwright.models.lowrank import LowRank
from domainwright.models.points import Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class DoraSettings(LoraSettings):
    """The same as LoRA's, without the starts that are parts of the weight."""

    STARTS: ClassVar[tuple[str, ...]] = ("random", "eva")
    TAKES_PAST: ClassVar[bool] = False
    TAKES_EMBEDDING: ClassVar[bool] = False


class _Length:
    """The output of one layer whose rows have other directions, with other lengths."""

    def __init__(self, layer: Linear, change: LowRank, m: nn.Parameter) -> None:
        self.layer, self.change, self.m = layer, change, m
        self._squares_O: Tensor | None = None

    def norm_O(self) -> Tensor:
        """‖W + γ B A‖ of each row, with the factors as the products take them."""
        weight = self.layer.weight_OI.detach()
        if self._squares_O is None:
            self._squares_O = weight.float().square().sum(1)
        scale, b = self.change.scale, self.change.B_OR.detach()
        a = self.change.A_RI.detach()
        crossed = 2 * scale * ((weight @ a.to(weight.dtype).T).to(b.dtype) * b).sum(1)
        squares = self._squares_O + crossed + scale**2 * ((b @ (a @ a.T)) * b).sum(1)
        return squares.clamp_min(1e-12).sqrt()

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        bias: Tensor | None = self.layer.module.bias  # type: ignore[assignment]
        plain = out if bias is None else out - bias
        # The change, not the whole: out keeps its own rounding.
        return torch.addcmul(out, plain, (self.m / self.norm_O() - 1).to(out.dtype))


class _Dropping(_Length):
    """The same of dropped inputs. As in PEFT, the base's share of the change sees them too."""

    @property
    def dropping(self) -> bool:
        return self.change.dropping

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        x = functional.dropout(x, self.change.dropout, training=self.dropping)
        plain = functional.linear(x, self.layer.weight_OI)
        length_O = self.m / self.norm_O()
        low = self.change.scale * (x.to(self.m.dtype) @ self.change.A_RI.T @ self.change.B_OR.T)
        return out + ((length_O - 1) * plain.to(low.dtype) + length_O * low).to(out.dtype)


class DoraAdapter(LoraAdapter):
    """A, B and a length per output of every chosen layer, float32 whatever the base's dtype."""

    method, version = "dora", 1

    def __init__(self, base: Base, settings: DoraSettings, layers: list[Linear]) -> None:
        super().__init__(base, settings, layers)
        self.m = nn.ParameterList(
            nn.Parameter(x.weight_OI.detach().float().norm(dim=1)) for x in layers
        )

    def narrow(self, kept: list[int]) -> None:
        super().narrow(kept)
        self.m = nn.ParameterList(self.m[i] for i in kept)

    def _lengths(self) -> Iterator[_Length]:
        kind = _Dropping if self.settings.dropout else _Length
        for (layer, change), m in zip(self.changes(), self.m, strict=True):
            yield kind(layer, change, m)

    def places(self) -> Iterator[tuple[str, Hook]]:
        for hook in self._lengths():
            if not self.settings.dropout:
                yield hook.layer.path, hook.change
            yield hook.layer.path, hook

    def merged_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for hook in self._lengths():
            turned_OI = hook.layer.weight_OI.float() + hook.change.product_OI()
            merged_OI = (hook.m / hook.norm_O())[:, None] * turned_OI
            yield f"{hook.layer.path}.weight", self.as_stored(hook.layer, merged_OI)
        yield from self.merged_rows()

    def stored(self) -> dict[str, Tensor]:
        lengths = {
            f"{x.path}.lora_magnitude_vector": m for x, m in zip(self.layers, self.m, strict=True)
        }
        return super().stored() | lengths

    def peft_config(self) -> dict[str, Any]:
        return {**super().peft_config(), "use_dora": True}


@METHODS.register
class Dora(Lora):
    """Low-rank adaptation of directions, and lengths apart."""

    Settings = DoraSettings
    Adapter = DoraAdapter
    summary = "LoRA on the direction of every row, its length learned apart; merges; slower."
    parameter_formula = (
        "Σ rank · (inputs + outputs) + outputs over the chosen layers, + hidden size per token row"
    )
    learning_rate: ClassVar = {"small": 8e-4, "large": 2e-4}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
