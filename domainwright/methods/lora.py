"""LoRA: learn a low-rank change to frozen linear layers.

    y = W x + b + γ · B A drop(x)        γ = alpha / rank, or alpha / √rank with `rslora`

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; rsLoRA: Kalajdzievski 2023,
arXiv:2312.03732. A starts random, B starts at zero, so before the first step the model is
exactly the base. With `rate_ratio` above 1, B learns faster than A (LoRA+: Hayou et al.
2024, arXiv:2402.12354). With `start: pissa` or `olora` the change is counted from where the
factors begin, γ · (B A - B₀ A₀), and saved as a plain LoRA of twice the rank:

    A' = [A; A₀]        B' = [B, -B₀]        γ the same

Of the embedding the roles are exchanged: A = 0 and B random, as in PEFT (`low_rank_rows`).
With `past` earlier adapters stay beside the new one (`_past`); with `tokens` and `new_tokens` rows
of the embedding are learned as well (`_token_rows`, `_new_words`).

Dimension key: I inputs of the layer, O outputs, R rank.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _new_words, _peft_format, _starts, _token_rows
from domainwright.methods._adapter import Adapter
from domainwright.methods._lora_folder import EMBEDDING, load
from domainwright.methods._lora_settings import LoraSettings, choose, chosen_embedding
from domainwright.methods._past import Past, read_past
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.models.hooks import Hook, Rows
from domainwright.models.low_rank_rows import LowRankRows
from domainwright.models.lowrank import LowRank
from domainwright.models.new_words import NewWords
from domainwright.models.points import Linear, Site
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
        self.head_ids: tuple[int, ...] = ()
        self.head_rows: nn.Parameter | None = None
        """Of a head that is not tied."""
        self._words: NewWords | None = None
        self.embedding: Site | None = None
        """Where a low-rank change of the embedding hangs."""
        self.embedding_A: nn.Parameter | None = None
        self.embedding_B: nn.Parameter | None = None
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

    @property
    def words(self) -> NewWords | None:
        return self._words

    def learn_tokens(
        self, ids: Sequence[int], words: NewWords | None, head_ids: Sequence[int] = ()
    ) -> None:
        """Learn the embedding's rows of these tokens too, from the base's own on.

        Args:
            words: those among them that the base does not have.
            head_ids: tokens whose rows of a head that is not tied are learned as well.
        """
        self._words, self.token_ids, self.head_ids = words, tuple(ids), tuple(head_ids)
        with self.speaking():
            self.token_rows = _token_rows.rows_of(self.base, ids)
            if head_ids:
                self.head_rows = _token_rows.head_rows_of(self.base, head_ids)

    def change_embedding(self, site: Site) -> None:
        """Learn a low-rank change of the embedding, PEFT's `lora_embedding_A` and `_B`.

        A tied head stays as it is, as in PEFT.
        """
        count, width = _token_rows.table_of(self.base).shape
        rank, device = self.settings.rank_of(site.path), self.base.device
        self.embedding = site
        self.embedding_A = nn.Parameter(torch.zeros(rank, count, device=device))
        self.embedding_B = nn.Parameter(torch.zeros(width, rank, device=device))

    @property
    def unties(self) -> bool:
        return self.embedding is not None and self.base.hooks.tied

    def learned_rows(self) -> tuple[Rows, TokenRows | None] | None:
        if self.embedding is not None:
            assert self.embedding_A is not None and self.embedding_B is not None
            scale = self.settings.scale_of(self.embedding.path)
            module = self.embedding.module
            return LowRankRows(module, self.embedding_A, self.embedding_B, scale), None
        if self.token_rows is None:
            return None
        rows, *of_head = (TokenRows(table, ids, rows) for _, table, ids, rows in self._rows())
        return rows, of_head[0] if of_head else None

    @property
    def changes_embedding(self) -> bool:
        return self.token_rows is not None or self.embedding is not None

    @property
    def shares_batch(self) -> bool:  # type: ignore[override]
        """The embedding and a tied head are one table for all rows of a batch."""
        return not self.changes_embedding

    @torch.no_grad()
    def start(self, seed: int) -> None:
        """A ~ U(-1/√I, 1/√I), PEFT's kaiming_uniform(√5), and B = 0; or as the settings say.

        Of the embedding A = 0 and B ~ N(0, 1), as in PEFT.
        """
        settings = self.settings
        if self.embedding is not None and self.embedding_B is not None:
            source = torch.Generator().manual_seed(derive(seed, "lora", self.embedding.path))
            self.embedding_B.copy_(torch.randn(self.embedding_B.shape, generator=source))
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
        rows = self.token_rows, self.head_rows, self.embedding_A, self.embedding_B
        first = [*self.A, *(x for x in rows if x is not None)]
        rest = [p for p in self.parameters() if not any(p is a for a in first)]
        return [(first, 1.0), (rest, self.settings.rate_ratio)]

    def merged_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for layer, change in self.changes():
            changed_OI = layer.weight_OI.float() + change.product_OI()
            yield f"{layer.path}.weight", self.as_stored(layer, changed_OI)
        yield from self.merged_rows()

    def merged_rows(self) -> Iterator[tuple[str, Tensor]]:
        """The tables with what is learned of them, where it is; a tied head is the embedding,
        unless the adapter `unties` it."""
        if self.embedding is not None:
            assert self.embedding_A is not None and self.embedding_B is not None
            change_VD = (self.embedding_B @ self.embedding_A).detach().T
            change_VD = change_VD * self.settings.scale_of(self.embedding.path)
            own_VD = _token_rows.table_of(self.base)
            yield f"{self.embedding.path}.weight", (own_VD.float() + change_VD).to(own_VD.dtype)
        with self.speaking():
            merged = {f"{k}.weight": module._parameters["weight"] for k, module, *_ in self._rows()}
        for path, _, ids, rows in self._rows():
            table_VD = merged[f"{path}.weight"].detach().clone()  # type: ignore[union-attr]
            table_VD[list(ids)] = rows.detach().to(table_VD.dtype)
            yield f"{path}.weight", table_VD

    def _rows(self) -> Iterator[tuple[str, nn.Module, tuple[int, ...], nn.Parameter]]:
        """(path of a table, the table, tokens, their learned rows)."""
        if self.token_rows is not None:
            yield *_token_rows.embedding_of(self.base), self.token_ids, self.token_rows
        if self.head_rows is not None:
            yield *_token_rows.head_of(self.base), self.head_ids, self.head_rows

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
        if self.embedding is not None:
            assert self.embedding_A is not None and self.embedding_B is not None
            both = zip(EMBEDDING, (self.embedding_A, self.embedding_B), strict=True)
            found |= {self.embedding.path + ending: value for ending, value in both}
        return found | {path + _token_rows.TAIL: rows for path, _, _, rows in self._rows()}

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
        if self.words is not None:  # without it nobody knows which words the rows are of
            self.words.tokenizer.save_pretrained(folder)

    def notes(self) -> dict[str, Any]:
        held = {"past": list(self.past.holds)} if self.past.holds else {}
        return {**super().notes(), **held}

    @property
    def parents(self) -> dict[str, str]:
        return {f"past {n}": digest for n, digest in enumerate(self.past.parents, start=1)}

    def peft_config(self) -> dict[str, Any]:
        settings = self.settings
        paths = [x.path for x in (*self.layers, self.embedding) if x is not None]
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
            **self._indices(),
            **(self._whole_ranks() if self.past.factors else {}),
        }

    def _indices(self) -> dict[str, Any]:
        """PEFT's key for the tokens whose rows are learned, with the tables where there are two."""
        tables = {path: list(ids) for path, _, ids, _ in self._rows()}
        if not tables:
            return {}
        return {_token_rows.KEY: tables if len(tables) > 1 else list(self.token_ids)}

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
        "rank · Σ (inputs + outputs) over the chosen layers, + hidden size per token row"
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
        sites = base.hooks.at("embedding")
        layers = choose(base.hooks.linears, settings.targets, sites)
        if settings.past:
            past = read_past(settings.past, layers, lambda folder: cls.load(base, folder))
            adapter = LoraAdapter(base, settings, layers, past)
        else:
            adapter = cls.Adapter(base, settings, layers)
        if (site := chosen_embedding(sites, settings)) is not None:
            adapter.change_embedding(site)
        if settings.tokens or settings.new_tokens:
            known = _token_rows.ids_of(base, settings.tokens or ())
            words = _new_words.new_words(base, settings.new_tokens) if settings.new_tokens else None
            fresh = words.ids if words else ()
            # As PEFT: rows that the head has stay, unless it is the embedding.
            adapter.learn_tokens((*known, *fresh), words, () if base.hooks.tied else fresh)
        adapter.start(seed)
        return adapter

    @classmethod
    def load(cls, base: Base, folder: Path) -> LoraAdapter:
        """An adapter saved by us or by PEFT; see `_lora_folder.load`."""
        return load(base, folder, cls.Settings, cls.Adapter)
