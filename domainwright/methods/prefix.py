"""Prefix tuning: learn keys and values that every token of every layer can attend to.

    K_ℓ ← [Kp_ℓ ; K_ℓ]      V_ℓ ← [Vp_ℓ ; V_ℓ]      the text's positions begin at P

Source: Li and Liang 2021, arXiv:2101.00190, section 4; the tensors and the shift of positions
are PEFT's. The rows are seen by every query, before the causal mask and outside any sliding
window. They start as the keys and values of an instruction, as the base itself computes them:
a prefix of zeros or noise takes attention away from the text (methods.md §3.3). So the model
is not the base before the first step, but the base that has read the instruction.

Dimension key: P rows, L layers, K key/value heads, h head size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _peft_format, _prompts
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.hooks import Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixSettings:
    rows: int = 20
    """Keys and values learned in each layer."""
    start: Literal["text", "random"] = "text"
    """Where they start: at those of `text`, or at noise with their size."""
    text: str = _prompts.INSTRUCTION
    """An instruction of the domain; repeated or cut to as many tokens as there are rows."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError(
                f"prefix.rows is {self.rows}; without a row nothing is learned.",
                "give a number such as 20.",
            )
        if self.start not in ("text", "random"):
            raise ConfigError(f"prefix.start is {self.start!r}.", "write text or random.")


class _Rows:
    """Keys and values (K, P, h) of one layer."""

    def __init__(self, table_PLKh: nn.Parameter, layer: int) -> None:
        self.table, self.layer = table_PLKh, layer

    def __call__(self) -> tuple[Tensor, Tensor]:
        pair = self.table[:, 2 * self.layer : 2 * self.layer + 2].permute(1, 2, 0, 3)
        return pair[0], pair[1]


class PrefixAdapter(Adapter):
    """One float32 table of all rows, (P, 2L, K, h): of layer ℓ keys at 2ℓ, values at 2ℓ + 1."""

    method, version = "prefix", 1

    def __init__(self, base: Base, settings: PrefixSettings, heads: int, size: int) -> None:
        super().__init__(base, settings)
        self.sites = _prompts.attending(base, self.method)
        shape = settings.rows, 2 * len(self.sites), heads, size
        self.table = nn.Parameter(torch.zeros(shape, device=base.device))

    def places(self) -> Iterator[tuple[str, Hook]]:
        for layer, site in enumerate(self.sites):
            yield site.path, _Rows(self.table, layer)
        yield _prompts.positions(self.base, self.method).path, _prompts.Shift(len(self.table))

    def stored(self) -> dict[str, Tensor]:
        return {"prompt_embeddings": self.table.data.flatten(1)}

    def save(self, folder: Path) -> None:
        rows, _, heads, size = self.table.shape
        config = _prompts.config("PREFIX_TUNING", self.base, rows, heads * size, heads) | {
            "encoder_hidden_size": heads * size,
            "prefix_projection": False,
        }
        _peft_format.write(folder, config, self.stored(), self.notes(), prefix="")


@torch.no_grad()
def _keys_and_values(base: Base, ids: list[int]) -> Tensor:
    """(P, 2L, K, h): what the base attends to after reading `ids`."""
    cache = DynamicCache()
    with base.hooks.disabled():
        base.model.base_model(
            input_ids=torch.tensor([ids], device=base.device),
            past_key_values=cache,
            use_cache=True,
        )
    layers: list[Any] = list(cache.layers)
    sides = [side[0] for layer in layers for side in (layer.keys, layer.values)]
    return torch.stack(sides).permute(2, 0, 1, 3).float()


@METHODS.register
class Prefix:
    """Learned keys and values in every layer."""

    Settings = PrefixSettings
    version = 1
    summary = "Learned keys and values that every layer attends to; starts from an instruction."
    parameter_formula = "rows · layers · 2 · keys per layer"
    peft_type: ClassVar[str | None] = "PREFIX_TUNING"
    identity_start = False
    random_start = False
    learning_rate: ClassVar = {"small": 1e-2, "large": 5e-3}
    """Below and from one billion parameters; methods.md §15.3, not swept."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    @staticmethod
    def build(base: Base, settings: PrefixSettings, seed: int) -> PrefixAdapter:
        """A fresh adapter.

        Raises:
            CapabilityError: the base has no attention that takes more keys.
        """
        _prompts.attending(base, "prefix")
        ids = _prompts.tokens(base, settings.text, settings.rows, "prefix")
        start = _keys_and_values(base, ids)
        if settings.start == "random":
            source = torch.Generator().manual_seed(derive(seed, "prefix"))
            noise = torch.randn(start.shape, generator=source).to(start.device)
            spread = start.std(dim=(0, 2, 3), keepdim=True, correction=0)
            start = start.mean(dim=(0, 2, 3), keepdim=True) + spread * noise
        adapter = PrefixAdapter(base, settings, *start.shape[2:])
        with torch.no_grad():
            adapter.table.copy_(start)
        return adapter

    @staticmethod
    def load(base: Base, folder: Path) -> PrefixAdapter:
        """An adapter saved by us or by PEFT.

        Raises:
            DataError: another base, another type, a tensor of another shape.
        """
        config, tensors, noted = _peft_format.read(folder)
        _peft_format.check_base(noted, base.sha256, base.source.name, folder)
        _peft_format.check_type(config, "PREFIX_TUNING", "prefix@1", folder)
        heads = int(config["num_attention_heads"])
        layers = len(_prompts.attending(base, "prefix"))
        if (config["num_layers"], config.get("num_transformer_submodules", 1)) != (layers, 1):
            raise DataError(
                f"{folder} has a prefix for {config['num_layers']} layers, not {layers}.",
                "load it on the base it was trained on.",
            )
        known: dict[str, Any] = noted.get("settings", {})
        settings = PrefixSettings(**known | {"rows": int(config["num_virtual_tokens"])})
        adapter = PrefixAdapter(base, settings, heads, int(config["token_dim"]) // heads)
        _peft_format.fill(adapter.stored(), tensors, folder)
        return adapter
