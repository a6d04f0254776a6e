"""Compacter: adapter layers whose matrices are sums of Kronecker products.

    Ad(z) = U gelu(D z + c_D) + c_U        D, U = (Σ_i A_i ⊗ (s_i t_iᵀ))ᵀ,  i = 1 … n

Source: Karimi Mahabadi et al. 2021, arXiv:2106.04647, section 4. The n small matrices A_i (n, n)
are shared by every layer; s_i and t_i are each layer's own, so a matrix from D to M numbers costs
D + M. The layers sit where Houlsby's do, twice a block, or with `plus` once, as in the paper's
Compacter++. All factors are drawn by Glorot's rule, but t_i of U starts at zero, so before the
first step the model is exactly the base. Folders are in adapter-hub's layout.

Dimension key: T tokens, D hidden size, M width of the middle, N number of products, I inputs and
O outputs of one matrix.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _adapter_hub, _peft_format
from domainwright.methods._adapter import Adapter
from domainwright.methods._layers import Drop, hooks_of, places_of
from domainwright.methods.bottleneck import VARIANTS, variant_of
from domainwright.models.base import Base
from domainwright.models.hooks import Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class CompacterSettings:
    plus: bool = False
    """One layer a block instead of two (Compacter++)."""
    reduction: float = 32.0
    """Hidden size over the width of the middle, which is the next lower multiple of `products`."""
    products: int = 4
    """N, the number of Kronecker products. The hidden size must be a multiple of it."""

    def __post_init__(self) -> None:
        if self.reduction <= 0:
            raise ConfigError(
                f"compacter.reduction is {self.reduction}, not above 0.",
                "give a factor such as 32.",
            )
        if self.products < 1:
            raise ConfigError(
                f"compacter.products is {self.products}; without a product there is no matrix.",
                "give a number such as 4.",
            )

    def width(self, hidden: int) -> int:
        """M: the largest multiple of `products` not above hidden / reduction, at least one.

        >>> CompacterSettings().width(576)
        16
        """
        return max(1, int(hidden // self.reduction) // self.products) * self.products


class Product(nn.Module):
    """x Σ_i A_i ⊗ (s_i t_iᵀ) + c of (…, I); A belongs to the adapter."""

    def __init__(self, inputs: int, outputs: int, products: int, device: torch.device) -> None:
        super().__init__()
        self.left_NI = nn.Parameter(torch.zeros(products, inputs // products, device=device))
        self.right_NO = nn.Parameter(torch.zeros(products, outputs // products, device=device))
        self.bias_O = nn.Parameter(torch.zeros(outputs, device=device))

    def forward(self, x: Tensor, rule_NNN: Tensor) -> Tensor:
        # Never as a matrix: two thin products cost N / M of it.
        parts = x.unflatten(-1, (len(self.left_NI), -1))
        low = torch.einsum("...ab,ib->...ai", parts, self.left_NI)
        mixed = torch.einsum("...ai,iac->...ci", low, rule_NNN)
        out = torch.einsum("...ci,io->...co", mixed, self.right_NO)
        return out.flatten(-2) + self.bias_O


class _Layer(nn.Module):
    """Ad, in float32 whatever the base's dtype."""

    def __init__(self, hidden: int, settings: CompacterSettings, device: torch.device) -> None:
        super().__init__()
        width = settings.width(hidden)
        self.down = Product(hidden, width, settings.products, device)
        self.up = Product(width, hidden, settings.products, device)


class CompacterAdapter(Adapter):
    """The shared rule (N, N, N) and one or two layers a block."""

    method, version = "compacter", 1

    def __init__(self, base: Base, settings: CompacterSettings) -> None:
        super().__init__(base, settings)
        hidden, products = int(base.model.config.get_text_config().hidden_size), settings.products
        if hidden % products:
            raise ConfigError(
                f"compacter.products is {products}, and the hidden size {hidden} of "
                f"{base.source.name} is no multiple of it.",
                "give a divisor such as 4 or 2.",
            )
        variant = "pfeiffer" if settings.plus else "houlsby"
        if not settings.plus and not base.hooks.at("attention"):
            raise CapabilityError(
                f"{base.source.name} does not attend, so compacter has no place for its first "
                "layer of a block.",
                "choose compacter with `plus: true`, or lora.",
            )
        self.where = list(places_of(base, variant))
        self.rule_NNN = nn.Parameter(torch.zeros(products, products, products, device=base.device))
        self.layers = nn.ModuleList(_Layer(hidden, settings, base.device) for _ in self.where)

    def places(self) -> Iterator[tuple[str, Hook]]:
        for place, layer in zip(self.where, self.layers, strict=True):
            assert isinstance(layer, _Layer)
            yield from hooks_of(place, _Acting(layer, self.rule_NNN), Drop())

    @torch.no_grad()
    def start(self, seed: int) -> None:
        """Glorot's normal rule on the CPU, by the places' names: equal on every device."""
        source = torch.Generator().manual_seed(derive(seed, "compacter"))
        size = len(self.rule_NNN)
        self.rule_NNN.copy_(size**-0.5 * torch.randn(self.rule_NNN.shape, generator=source))
        for place, layer in zip(self.where, self.layers, strict=True):
            assert isinstance(layer, _Layer)
            source = torch.Generator().manual_seed(derive(seed, "compacter", place.paths[-1]))
            for factor in (layer.down.left_NI, layer.down.right_NO, layer.up.left_NI):
                spread = (2 / (1 + factor.shape[1])) ** 0.5
                factor.copy_(spread * torch.randn(factor.shape, generator=source))

    def stored(self, name: str = _adapter_hub.NAME) -> dict[str, Tensor]:
        """The tensors by adapter-hub's names, as views in its shapes."""
        trunk = self.base.model.base_model_prefix
        found = {f"{trunk}.shared_parameters.{name}.phm_rule": self.rule_NNN.data}
        for place, layer in zip(self.where, self.layers, strict=True):
            assert isinstance(layer, _Layer)
            for part, product in (("adapter_down.0", layer.down), ("adapter_up", layer.up)):
                path = _adapter_hub.name_of(place.block_path, place.part, name, part)
                found[f"{path}.W_left"] = product.left_NI.data[:, :, None]
                found[f"{path}.W_right"] = product.right_NO.data[:, None]
                found[f"{path}.b"] = product.bias_O.data
        return found

    def save(self, folder: Path) -> None:
        hidden = int(self.base.model.config.get_text_config().hidden_size)
        width = self.settings.width(hidden)
        # Of the width that was built, since the library takes no other; and a hair less where its
        # floor division would give one less.
        reduction = hidden / width
        if int(hidden // reduction) != width:
            reduction = math.nextafter(reduction, 0)
        config = {
            **VARIANTS["pfeiffer" if self.settings.plus else "houlsby"],
            "non_linearity": "gelu",
            "reduction_factor": reduction,
            "scaling": 1.0,
            "init_weights": "bert",
            "leave_out": [],
            "phm_layer": True,
            "phm_dim": self.settings.products,
        }
        _adapter_hub.write(folder, self.base, config, self.stored(), self.notes())


class _Acting:
    """A layer with the rule that all share."""

    def __init__(self, layer: _Layer, rule_NNN: nn.Parameter) -> None:
        self.layer, self.rule = layer, rule_NNN

    def __call__(self, z: Tensor) -> Tensor:
        middle = functional.gelu(self.layer.down(z.float(), self.rule))
        out: Tensor = self.layer.up(middle, self.rule)
        return out


@METHODS.register
class Compacter:
    """Adapter layers of Kronecker products."""

    Settings = CompacterSettings
    version = 1
    summary = "Adapter layers of shared Kronecker products; very small, adapter-hub's files."
    parameter_formula = "layers · (3 · hidden + 3 · width) + products³; 2 layers a block, plus: 1"
    peft_type: ClassVar[str | None] = None
    identity_start = True
    random_start = True
    learning_rate: ClassVar = {"small": 3e-3, "large": 3e-3}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    @staticmethod
    def build(base: Base, settings: CompacterSettings, seed: int) -> CompacterAdapter:
        """A fresh adapter, which changes nothing yet.

        Raises:
            CapabilityError: the base has no place for it.
            ConfigError: the hidden size is no multiple of `products`.
        """
        adapter = CompacterAdapter(base, settings)
        adapter.start(seed)
        return adapter

    @staticmethod
    def load(base: Base, folder: Path) -> CompacterAdapter:
        """An adapter saved by us or by adapter-hub, checked key by key.

        Raises:
            DataError: another base or method, a missing or surplus tensor, or layers that this
                method does not compute.
        """
        config, name, tensors, noted = _adapter_hub.read(folder)
        if noted:
            _peft_format.check_method(noted, "compacter", folder)
            _peft_format.check_base(noted, base.sha256, base.source.name, folder)
        _adapter_hub.check_plain(config, "compacter@1", folder)
        function = _adapter_hub.function_of(config, "compacter@1", folder)
        kept = {"phm_layer": True, "scaling": 1.0, "leave_out": []}
        for key, value in kept.items():
            if config.get(key, value) != value:
                _adapter_hub.refuse(key, config[key], "compacter@1", folder)
        variant = variant_of(config, "compacter@1", folder)
        if function != "gelu" or variant == "parallel":
            key = "is_parallel" if variant == "parallel" else "non_linearity"
            _adapter_hub.refuse(key, config[key], "compacter@1", folder)
        settings = CompacterSettings(
            plus=variant == "pfeiffer",
            reduction=float(config["reduction_factor"]),
            products=int(config["phm_dim"]),
        )
        if noted:
            settings = CompacterSettings(**noted["settings"])
        adapter = CompacterAdapter(base, settings)
        _peft_format.fill(adapter.stored(name), tensors, folder)
        return adapter
