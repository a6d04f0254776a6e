"""LoRA: learn a low-rank change to frozen linear layers.

    y = W x + b + γ · B A drop(x)        γ = alpha / rank, or alpha / √rank with `rslora`

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; rsLoRA: Kalajdzievski 2023,
arXiv:2312.03732. A starts random, B starts at zero, so before the first step the model is
exactly the base. With `rate_ratio` above 1, B learns faster than A (LoRA+: Hayou et al.
2024, arXiv:2402.12354). With `start: pissa` or `olora` the change is counted from where the
factors begin, γ · (B A - B₀ A₀), and saved as a plain LoRA of twice the rank:

    A' = [A; A₀]        B' = [B, -B₀]        γ the same

With `past` earlier adapters stay beside the new one (`_past`); with `tokens` their rows of the
embedding are learned as well (`_token_rows`).

Dimension key: I inputs of the layer, O outputs, R rank.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from domainwright.core.errors import DataError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _peft_format, _starts, _token_rows
from domainwright.methods._adapter import Adapter
from domainwright.methods._lora_settings import LoraSettings, choose
from domainwright.methods._past import Past, read_past
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.models.hooks import Hook
from domainwright.models.lowrank import LowRank
from domainwright.models.points import Linear
from domainwright.models.token_rows import TokenRows


class LoraAdapter(Adapter):
    """A and B per chosen layer, float32 whatever the base's dtype.

    bfloat16 keeps 8 significant bits: a step below 1/512 of a weight would be no step at all.
    """

    method, version = "lora", 1

    def __init__(
        self, base: Base, settings: LoraSettings, layers: list[Linear], past: Past | None = None
    ) -> None:
        super().__init__(base, settings)
        self.layers, self.past = layers, past or Past()
        self.token_ids: tuple[int, ...] = ()
        self.token_rows: nn.Parameter | None = None
        device, rank_of = base.device, settings.rank_of
        self.A = nn.ParameterList(
            nn.Parameter(torch.zeros(rank_of(x.path), x.inputs, device=device)) for x in layers
        )
        self.B = nn.ParameterList(
            nn.Parameter(torch.zeros(x.outputs, rank_of(x.path), device=device)) for x in layers
        )
        # Buffers, so that a checkpoint holds them: another machine's SVD has other signs.
        for i in range(len(layers) if self.counted else 0):
            self.register_buffer(f"A0_{i}", torch.zeros_like(self.A[i].data))
            self.register_buffer(f"B0_{i}", torch.zeros_like(self.B[i].data))
        for i, (a, b) in enumerate(self.past.factors):
            self.register_buffer(f"past_A_{i}", a.clone())
            self.register_buffer(f"past_B_{i}", b / settings.scale_of(layers[i].path))

    @property
    def counted(self) -> bool:
        """Whether the change is counted from where the factors began."""
        return self.settings.start in _starts.COUNTED

    def origin(self, i: int) -> tuple[Tensor, Tensor] | None:
        """(A₀, B₀) of the layer of that number, where they are no part of the change."""
        return (getattr(self, f"A0_{i}"), getattr(self, f"B0_{i}")) if self.counted else None

    def frozen(self, i: int) -> tuple[Tensor, Tensor] | None:
        """(A, B) of the layer of that number that stay as they are, over the same scale."""
        if not self.past.factors:
            return None
        return getattr(self, f"past_A_{i}"), getattr(self, f"past_B_{i}")

    def changes(self) -> Iterator[tuple[Linear, LowRank]]:
        """What is added to the output of every chosen layer."""
        for i, (layer, a, b) in enumerate(zip(self.layers, self.A, self.B, strict=True)):
            scale = self.settings.scale_of(layer.path)
            dropout = self.settings.dropout
            yield layer, LowRank(a, b, scale, dropout, self.origin(i), self.frozen(i))

    @property
    def kept_whole(self) -> str | None:
        return "A." if self.settings.start in ("random", "eva") else None

    def places(self) -> Iterator[tuple[str, Hook]]:
        for layer, change in self.changes():
            yield layer.path, change

    def learn_tokens(self, ids: Sequence[int]) -> None:
        """Learn the embedding's rows of these tokens too, from the base's own on."""
        self.token_ids, self.token_rows = tuple(ids), _token_rows.rows_of(self.base, ids)

    def learned_rows(self) -> TokenRows | None:
        if self.token_rows is None:
            return None
        return TokenRows(_token_rows.embedding_of(self.base)[1], self.token_ids, self.token_rows)

    @property
    def shares_batch(self) -> bool:  # type: ignore[override]
        """A tied head has one table for all rows of a batch."""
        return self.token_rows is None

    @torch.no_grad()
    def start(self, seed: int) -> None:
        """A ~ U(-1/√I, 1/√I), PEFT's kaiming_uniform(√5), and B = 0; or as the settings say."""
        settings = self.settings
        for i, (layer, a, b) in enumerate(zip(self.layers, self.A, self.B, strict=True)):
            if origin := self.origin(i):
                made = _starts.COUNTED[settings.start](
                    layer.weight_OI.detach(),
                    len(a),
                    settings.scale_of(layer.path),
                    settings.svd_passes,
                    derive(seed, "svd", layer.path),
                )
                for mine, first, value in zip((a, b), origin, made, strict=True):
                    mine.copy_(value)
                    first.copy_(value)
                continue
            bound = 1 / math.sqrt(layer.inputs)
            # Drawn on the CPU by the layer's name: equal on every device and for every subset.
            source = torch.Generator().manual_seed(derive(seed, "lora", layer.path))
            a.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=source))

    @torch.no_grad()
    def prepare(self, rows: Sequence[TrainRow], seed: int) -> None:
        if self.settings.start != "eva":
            return
        ranks = [len(a) for a in self.A]
        scales = {x.path: self.settings.scale_of(x.path) for x in self.layers}
        growth = self.settings.rank_growth
        found = _starts.eva(self.base, self.layers, ranks, rows, growth, seed)
        kept = [i for i, a in enumerate(found) if len(a)]
        self.narrow(kept)
        rank = {x.path: len(found[i]) for x, i in zip(self.layers, kept, strict=True)}
        power = 0.5 if self.settings.rslora else 1.0
        alpha = {path: scales[path] * r**power for path, r in rank.items()}
        self.settings = replace(self.settings, rank_pattern=rank, alpha_pattern=alpha)
        self.A = nn.ParameterList(nn.Parameter(found[i].clone()) for i in kept)
        self.B = nn.ParameterList(
            nn.Parameter(found[i].new_zeros(x.outputs, len(found[i])))
            for x, i in zip(self.layers, kept, strict=True)
        )

    def narrow(self, kept: list[int]) -> None:
        """Leave the layers of these numbers alone."""
        self.layers = [self.layers[i] for i in kept]

    def rate_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        # B alone learns faster: rows of the embedding are no part of a product.
        first = [*self.A, *([] if self.token_rows is None else [self.token_rows])]
        rest = [p for p in self.parameters() if not any(p is a for a in first)]
        return [(first, 1.0), (rest, self.settings.rate_ratio)]

    def merged_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for layer, change in self.changes():
            changed_OI = layer.weight_OI.float() + change.product_OI()
            yield f"{layer.path}.weight", self.as_stored(layer, changed_OI)
        yield from self.merged_rows()

    def merged_rows(self) -> Iterator[tuple[str, Tensor]]:
        """The embedding with the learned rows, where there are some; a tied head is the same."""
        if self.token_rows is None:
            return
        path, module = _token_rows.embedding_of(self.base)
        merged_VD = module._parameters["weight"].detach().clone()  # type: ignore[union-attr]
        merged_VD[list(self.token_ids)] = self.token_rows.detach().to(merged_VD.dtype)
        yield f"{path}.weight", merged_VD

    def as_stored(self, layer: Linear, weight_OI: Tensor) -> Tensor:
        stored = weight_OI.T if layer.transposed else weight_OI
        return stored.detach().to(self.base.dtype).contiguous()

    def stored(self) -> dict[str, Tensor]:
        """The tensors by PEFT's names."""
        found: dict[str, Tensor] = {}
        for i, (layer, a, b) in enumerate(zip(self.layers, self.A, self.B, strict=True)):
            if origin := self.origin(i):
                a, b = torch.cat([a, origin[0]]), torch.cat([b, -origin[1]], dim=1)
            if still := self.frozen(i):
                a, b = torch.cat([still[0], a]), torch.cat([still[1], b], dim=1)
            found[f"{layer.path}.lora_A.weight"] = a
            found[f"{layer.path}.lora_B.weight"] = b
        if self.token_rows is not None:
            path, _ = _token_rows.embedding_of(self.base)
            found[path + _token_rows.TAIL] = self.token_rows
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """Take over the tensors of a file.

        Raises:
            DataError: a tensor is missing, surplus or of another shape.
        """
        found = self.stored()
        _peft_format.fill(found, tensors, folder)
        for i, layer in enumerate(self.layers):
            if origin := self.origin(i):
                a, a0 = found[f"{layer.path}.lora_A.weight"].chunk(2)
                b, b0 = found[f"{layer.path}.lora_B.weight"].chunk(2, dim=1)
                for mine, value in zip(
                    (self.A[i], self.B[i], *origin), (a, b, a0, -b0), strict=True
                ):
                    mine.copy_(value)

    def save(self, folder: Path) -> None:
        _peft_format.write(folder, self.peft_config(), self.stored(), self.notes())

    def notes(self) -> dict[str, Any]:
        held = {"past": list(self.past.holds)} if self.past.holds else {}
        return {**super().notes(), **held}

    @property
    def parents(self) -> dict[str, str]:
        return {f"past {n}": digest for n, digest in enumerate(self.past.parents, start=1)}

    def peft_config(self) -> dict[str, Any]:
        settings = self.settings
        paths = [x.path for x in self.layers]
        # Of twice the rank where the origin is part of the file; γ stays the same.
        times = 2 if self.counted else 1
        factor = math.sqrt(times) if settings.rslora else times
        return {
            **_peft_format.common("LORA", self.base.source.name, paths),
            "r": times * settings.rank,
            "lora_alpha": factor * settings.alpha,
            "lora_dropout": settings.dropout,
            "bias": "none",
            "use_rslora": settings.rslora,
            "use_dora": False,
            "init_lora_weights": True,
            "fan_in_fan_out": any(x.transposed for x in self.layers),
            "rank_pattern": {k: times * r for k, r in settings.rank_pattern.items()},
            "alpha_pattern": {k: factor * a for k, a in settings.alpha_pattern.items()},
            **({_token_rows.KEY: list(self.token_ids)} if self.token_ids else {}),
            **(self._whole_ranks() if self.past.factors else {}),
        }

    def _whole_ranks(self) -> dict[str, Any]:
        """PEFT's keys for the ranks of every layer with its past; γ stays the same."""
        power = 0.5 if self.settings.rslora else 1.0
        ranks = {layer.path: len(change.factors()[0]) for layer, change in self.changes()}
        alphas = {path: self.settings.scale_of(path) * r**power for path, r in ranks.items()}
        first = self.layers[0].path
        return {
            "r": ranks[first],
            "lora_alpha": alphas[first],
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
        }


@METHODS.register
class Lora:
    """Low-rank adaptation."""

    Settings: ClassVar[type[LoraSettings]] = LoraSettings
    Adapter: ClassVar[type[LoraAdapter]] = LoraAdapter
    version = 1
    summary = "A low-rank change beside every linear layer; merges into the base."
    parameter_formula = (
        "rank · Σ (inputs + outputs) over the chosen layers, + hidden size per token"
    )
    peft_type: ClassVar[str | None] = "LORA"
    identity_start = True
    random_start = True
    learning_rate: ClassVar = {"small": 1e-3, "large": 2e-4}
    """Below and from one billion parameters; methods.md §15.3 and its first readings."""
    merge_rtol: ClassVar = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
    """Largest relative error of merged logits. bfloat16 rounds every merged weight to 8 bits."""

    @classmethod
    def build(cls, base: Base, settings: LoraSettings, seed: int) -> LoraAdapter:
        """A fresh adapter, which changes nothing yet; with a past, nothing more than that."""
        layers = choose(base.hooks.linears, settings.targets)
        if settings.past:
            past = read_past(settings.past, layers, lambda folder: cls.load(base, folder))
            adapter = LoraAdapter(base, settings, layers, past)
        else:
            adapter = cls.Adapter(base, settings, layers)
        if settings.tokens is not None:
            adapter.learn_tokens(_token_rows.ids_of(base, settings.tokens))
        adapter.start(seed)
        return adapter

    @classmethod
    def load(cls, base: Base, folder: Path) -> LoraAdapter:
        """An adapter saved by us or by PEFT, checked key by key.

        Raises:
            DataError: another base, a missing or surplus tensor, or a LoRA variant that this
                method does not compute.
        """
        return _load(base, folder, cls.Settings, cls.Adapter)


def _load(
    base: Base, folder: Path, settings_of: type[LoraSettings], adapter_of: type[LoraAdapter]
) -> LoraAdapter:
    """An adapter of the LoRA family; `adapter_of` says which."""
    config, tensors, noted = _peft_format.read(folder)
    _peft_format.check_base(noted, base.sha256, base.source.name, folder)
    if noted:
        _peft_format.check_method(noted, adapter_of.method, folder)
    _check_variant(config, adapter_of, folder)
    linears = base.hooks.linears
    tokens = _token_rows.declared(config, base, folder)
    layered = [name for name in tensors if not name.endswith(_token_rows.TAIL)]
    paths = {name.rsplit(".lora_", 1)[0] for name in layered}
    strange = paths - {x.path for x in linears}
    if strange:
        raise DataError(
            f"{folder} adapts {min(strange)!r}, which the base does not have.",
            "load it on the base it was trained on.",
        )
    own = noted.get("settings", {})
    # With a past, the file holds it: the ranks of both are the adapter's now.
    given = {f.name: own[f.name] for f in fields(settings_of) if f.name in own and f.name != "past"}
    if given.get("start") not in _starts.COUNTED:  # else the file's rank is not the adapter's
        given |= {
            "rank": int(config["r"]),
            "alpha": float(config["lora_alpha"]),
            "rank_pattern": dict(config.get("rank_pattern") or {}),
            "alpha_pattern": dict(config.get("alpha_pattern") or {}),
        }
    given |= {
        "dropout": float(config.get("lora_dropout", 0.0)),
        "rslora": bool(config.get("use_rslora")),
        "targets": tuple(sorted(paths)),
        # As the run named them; of PEFT's folder, as the tokenizer writes them.
        "tokens": tuple(own.get("tokens") or base.tokenizer.convert_ids_to_tokens(tokens)) or None,
    }
    settings = settings_of(**given)
    # What the config declares counts as well: PEFT leaves a layer without tensors bare.
    paths |= _peft_format.declared(config, {x.path: x.block for x in linears})
    adapter = adapter_of(base, settings, [x for x in linears if x.path in paths])
    adapter.past = Past(holds=tuple(noted.get("past", ())))
    if tokens:
        adapter.learn_tokens(tokens)
    adapter.restore(tensors, folder)
    return adapter


_VARIANTS = (
    "modules_to_save",
    "lora_bias",
    "layer_replication",
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
