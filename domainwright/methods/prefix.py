"""Prefix tuning: learn keys and values that every token of every layer can attend to.

    K_ℓ ← [Kp_ℓ ; K_ℓ]      V_ℓ ← [Vp_ℓ ; V_ℓ]      the text's positions begin at P

Source: Li and Liang 2021, arXiv:2101.00190, section 4; the tensors and the shift of positions
are PEFT's. The rows are seen by every query, before the causal mask and outside any sliding
window. They start as the keys and values of an instruction, as the base itself computes them:
a prefix of zeros or noise takes attention away from the text (methods.md §3.3). So the model
is not the base before the first step, but the base that has read the instruction.

    projection   table = T0 + Linear(H, 2L·K·h)(tanh(Linear(K·h, H)(E)))       E ∈ R^{P×K·h}
    gate         (1 − g λ) · attention + g λ · softmax(q Kpᵀ) Vp      g = tanh(γ), one a head

`projection` learns the rows through PEFT's network (its section 4.3); T0 is where they start, and
the last layer starts at zero (PEFT has no T0). PEFT's file holds the table alone, and the
network lies beside it in a file of ours, so that training can go on.

`gate` multiplies λ, the share of attention that the prefix takes from the text (He et al. 2022,
arXiv:2110.04366, equation 7), by a gate that starts at zero (Zhang et al. 2023,
arXiv:2303.16199): the model starts as the base itself. So that it does, no position is
moved. PEFT has no such type.

Dimension key: P rows, L layers, H width of the network, K key/value heads, h head size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
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
    projection: bool = False
    """Learn the rows through a network while training; only the rows are answered with."""
    projection_hidden: int = 512
    """Width of that network."""
    gate: bool = False
    """A gate for each head, zero at the start, on the attention that the rows take."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError(
                f"prefix.rows is {self.rows}; without a row nothing is learned.",
                "give a number such as 20.",
            )
        if self.start not in ("text", "random"):
            raise ConfigError(f"prefix.start is {self.start!r}.", "write text or random.")
        if self.projection_hidden < 1:
            raise ConfigError(
                f"prefix.projection_hidden is {self.projection_hidden}.",
                "give a width such as 512.",
            )


class Projection(nn.Module):
    """T0 + the network's output (P, 2L·K·h); its tensors under PEFT's names."""

    def __init__(self, start: Tensor, width: int, hidden: int, seed: int) -> None:
        super().__init__()
        self.start: Tensor
        self.register_buffer("start", start.clone())
        with torch.random.fork_rng():
            # As PyTorch and PEFT begin it, drawn on the CPU: equal on every device.
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(len(start), width)
            last = nn.Linear(hidden, start.shape[1])
            self.transform = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self) -> Tensor:
        table: Tensor = self.start + self.transform(self.embedding.weight)
        return table


class _Made(_prompts.Shift):
    """The table, made anew whenever the base reads a batch; of what is learned itself, a view."""

    def __init__(self, adapter: "PrefixAdapter") -> None:
        super().__init__(0 if adapter.settings.gate else adapter.settings.rows)
        self.adapter = adapter
        self.table_PLKh = adapter.made()

    @property
    def dropping(self) -> bool:
        return self.adapter.dropout > 0 and torch.is_grad_enabled()

    def begin(self) -> None:
        made = self.adapter.made()
        self.table_PLKh = functional.dropout(made, self.adapter.dropout) if self.dropping else made


class _Rows:
    """Keys and values (K, P, h) of one layer, and g (H) of its heads where they have a gate."""

    def __init__(self, made: _Made, layer: int) -> None:
        self.made, self.layer = made, layer

    def __call__(self) -> tuple[Tensor, ...]:
        pair = self.made.table_PLKh[:, 2 * self.layer : 2 * self.layer + 2].permute(1, 2, 0, 3)
        gates = self.made.adapter.gates
        return (pair[0], pair[1]) if gates is None else (pair[0], pair[1], gates[self.layer].tanh())


class PrefixAdapter(Adapter):
    """One float32 table of all rows, (P, 2L, K, h): of layer ℓ keys at 2ℓ, values at 2ℓ + 1.

    Args:
        start: the table as it begins.
        seed: of the network, with `projection`.
    """

    method, version = "prefix", 1

    def __init__(
        self, base: Base, settings: PrefixSettings, start: Tensor, seed: int | None = None
    ) -> None:
        super().__init__(base, settings)
        self.sites = _prompts.attending(base, self.method)
        self.shape = start.shape
        self.table: nn.Parameter | None = None
        self.network: Projection | None = None
        self.gates: nn.Parameter | None = None
        if seed is None:
            self.table = nn.Parameter(start.clone())
        else:
            flat, hidden = start.flatten(1).cpu(), settings.projection_hidden
            width = self.shape[2] * self.shape[3]
            self.network = Projection(flat, width, hidden, seed).to(base.device)
        if settings.gate:
            heads = int(base.model.config.get_text_config().num_attention_heads)
            self.gates = nn.Parameter(torch.zeros(len(self.sites), heads, device=base.device))

    def made(self) -> Tensor:
        """The table (P, 2L, K, h) as it is now."""
        if self.network is None:
            assert self.table is not None  # one of the two is there
            return self.table
        found: Tensor = self.network()
        return found.view(self.shape)

    def places(self) -> Iterator[tuple[str, Hook]]:
        made = _Made(self)
        yield _prompts.positions(self.base, self.method).path, made
        for layer, site in enumerate(self.sites):
            yield site.path, _Rows(made, layer)

    def rate_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        network = [] if self.network is None else list(self.network.parameters())
        rest = [p for p in self.parameters() if not any(p is n for n in network)]
        return [(group, rate) for group, rate in ((network, NETWORK_RATE), (rest, 1.0)) if group]

    @property
    def dropout(self) -> float:
        """Share of the table set to zero in training, drawn once a pass."""
        return 0.0

    @property
    def peft_type(self) -> str | None:
        return None if self.settings.gate else "PREFIX_TUNING"

    def stored(self) -> dict[str, Tensor]:
        tensors = {"prompt_embeddings": self.made().detach().flatten(1)}
        return tensors | ({} if self.gates is None else {"gates": self.gates.data})

    def save(self, folder: Path) -> None:
        rows, _, heads, size = self.shape
        config = _prompts.config("PREFIX_TUNING", self.base, rows, heads * size, heads) | {
            "encoder_hidden_size": heads * size,
            "prefix_projection": False,
        }
        if self.settings.gate:
            # Its layout, but nobody may take it for a plain prefix.
            del config["peft_type"]
        _peft_format.write(folder, config, self.stored(), self.notes(), prefix="")
        if self.network is not None:
            _prompts.write_encoder(folder, self.network)


NETWORK_RATE = 0.1
"""Learning rate of the network over that of rows that learn themselves. With 1, a run on
SmolLM2-135M at the method's own rate diverged within six steps."""


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


def begun(base: Base, settings: PrefixSettings, seed: int) -> Tensor:
    """The table (P, 2L, K, h) before the first step.

    Raises:
        CapabilityError: the base has no attention that takes more keys.
        ConfigError: the text has no token, or there are more rows than half of the context.
    """
    _prompts.attending(base, "prefix")
    ids = _prompts.tokens(base, settings.text, settings.rows, "prefix")
    start = _keys_and_values(base, ids)
    if settings.start == "text":
        return start
    source = torch.Generator().manual_seed(derive(seed, "prefix"))
    noise = torch.randn(start.shape, generator=source).to(start.device)
    spread = start.std(dim=(0, 2, 3), keepdim=True, correction=0)
    return start.mean(dim=(0, 2, 3), keepdim=True) + spread * noise


@METHODS.register
class Prefix:
    """Learned keys and values in every layer."""

    Settings: ClassVar[type[PrefixSettings]] = PrefixSettings
    Adapter: ClassVar[type[PrefixAdapter]] = PrefixAdapter
    version = 1
    summary = "Learned keys and values that every layer attends to; starts from an instruction."
    parameter_formula = "rows · layers · 2 · keys per layer"
    peft_type: ClassVar[str | None] = "PREFIX_TUNING"
    identity_start = False
    random_start = False
    learning_rate: ClassVar = {"small": 1e-2, "large": 5e-3}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    @classmethod
    def build(cls, base: Base, settings: PrefixSettings, seed: int) -> PrefixAdapter:
        """A fresh adapter.

        Raises:
            CapabilityError: the base has no attention that takes more keys.
        """
        own = derive(seed, "prefix network") if settings.projection else None
        return cls.Adapter(base, settings, begun(base, settings, seed), own)

    @classmethod
    def load(cls, base: Base, folder: Path) -> PrefixAdapter:
        """An adapter saved by us, with its network where it is there, or by PEFT.

        Raises:
            DataError: another base, another type, a tensor of another shape, another network.
        """
        return _load(base, folder, cls.Settings, cls.Adapter)


def _load(
    base: Base, folder: Path, settings_of: type[PrefixSettings], adapter_of: type[PrefixAdapter]
) -> PrefixAdapter:
    """An adapter of prefix's kin; `adapter_of` says which."""
    config, tensors, noted = _peft_format.read(folder)
    _peft_format.check_base(noted, base.sha256, base.source.name, folder)
    known: dict[str, Any] = noted.get("settings", {})
    method = adapter_of.method
    if noted or known.get("gate"):
        _peft_format.check_method(noted, method, folder)
    if not known.get("gate"):
        _peft_format.check_type(config, "PREFIX_TUNING", f"{method}@{adapter_of.version}", folder)
    heads = int(config["num_attention_heads"])
    layers = len(_prompts.attending(base, method))
    if (config["num_layers"], config.get("num_transformer_submodules", 1)) != (layers, 1):
        raise DataError(
            f"{folder} has a prefix for {config['num_layers']} layers, not {layers}.",
            "load it on the base it was trained on.",
        )
    settings = settings_of(**known | {"rows": int(config["num_virtual_tokens"])})
    shape = settings.rows, 2 * layers, heads, int(config["token_dim"]) // heads
    start = torch.zeros(shape, device=base.device)
    learns = (folder / _prompts.ENCODER).is_file()
    adapter = adapter_of(base, settings, start, 0 if learns else None)
    targets = adapter.stored() | {"prompt_embeddings": start.flatten(1)}
    _peft_format.fill(targets, tensors, folder)
    if adapter.network is not None:
        _prompts.fill_encoder(folder, adapter.network, start)
    else:
        adapter.made().data.copy_(start)
    return adapter
