"""Prompt tuning: learn the embeddings of virtual tokens that stand before every text.

    X' = [p_1 … p_P ; embedding(x)]        p ∈ R^{P×D}

Source: Lester et al. 2021, arXiv:2104.08691, section 2. Attention is causal, so the virtual
tokens never see the text: the base reads them once per batch, and every layer of every
document attends to their keys and values. So packed documents share them, and a cache of
answers holds the text alone. They start as the embeddings of an instruction's tokens.

Dimension key: P virtual tokens, D hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _peft_format, _prompts
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.hooks import Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSettings:
    rows: int = 20
    """Virtual tokens."""
    start: Literal["text", "words"] = "text"
    """Their first values: the embeddings of `text`, or of words of the vocabulary by chance."""
    text: str = _prompts.INSTRUCTION
    """An instruction of the domain; repeated or cut to as many tokens as there are rows."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError(
                f"prompt.rows is {self.rows}; without a row nothing is learned.",
                "give a number such as 20.",
            )
        if self.start not in ("text", "words"):
            raise ConfigError(f"prompt.start is {self.start!r}.", "write text or words.")


class _Read(_prompts.Shift):
    """The virtual tokens' keys and values, read anew whenever the base reads a batch.

    Nothing is kept from one batch to the next: what was read before an optimiser step, or
    beside another adapter, would be stale.
    """

    def __init__(self, adapter: "PromptAdapter") -> None:
        super().__init__(len(adapter.table))
        self.base, self.table = adapter.base, adapter.table
        self.resting = False
        """True while the virtual tokens themselves are read."""
        self.layers: list[tuple[Tensor, Tensor]] = []

    def begin(self) -> None:
        if self.base.hooks.shared:
            raise CapabilityError(
                "prompt reads its virtual tokens once for a whole batch, so it cannot share one "
                "with other adapters.",
                "give it a batch of its own.",
            )
        layers = [_Last() for _ in self.base.hooks.at("block")]
        cache = Cache(layers=[*layers])
        embedded = self.table.to(self.base.dtype)[None]
        self.resting = True
        try:
            self.base.model.base_model(
                inputs_embeds=embedded,
                position_ids=torch.arange(len(self.table), device=embedded.device)[None],
                past_key_values=cache,
                use_cache=True,
                # An argument, not only a flag: a block that is computed again gets it again.
                without_rows=True,
            )
        finally:
            self.resting = False
        self.layers = [(x.keys[0], x.values[0]) for x in layers]


class _Last(DynamicLayer):
    """Keys and values of the last reading: a block that is computed again adds none."""

    keys: Tensor
    values: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return key_states, value_states


class _Layer:
    """Keys and values (K, P, h) of one layer."""

    def __init__(self, read: _Read, layer: int) -> None:
        self.read, self.layer = read, layer

    def __call__(self) -> tuple[Tensor, Tensor]:
        return self.read.layers[self.layer]


class PromptAdapter(Adapter):
    """One float32 table (P, D)."""

    method, version = "prompt", 1
    # The virtual tokens are read once, for the whole batch.
    shares_batch: ClassVar[bool] = False

    def __init__(self, base: Base, settings: PromptSettings) -> None:
        super().__init__(base, settings)
        self.sites = _prompts.attending(base, self.method)
        hidden = base.model.get_input_embeddings().weight.shape[1]
        self.table = nn.Parameter(torch.zeros(settings.rows, hidden, device=base.device))

    def places(self) -> Iterator[tuple[str, Hook]]:
        read = _Read(self)
        yield _prompts.positions(self.base, self.method).path, read
        for layer, site in enumerate(self.sites):
            yield site.path, _Layer(read, layer)

    def stored(self) -> dict[str, Tensor]:
        return {"prompt_embeddings": self.table.data}

    def save(self, folder: Path) -> None:
        rows, hidden = self.table.shape
        heads = int(self.base.model.config.get_text_config().num_attention_heads)
        config = _prompts.config("PROMPT_TUNING", self.base, rows, hidden, heads) | {
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "tokenizer_name_or_path": None,
        }
        _peft_format.write(folder, config, self.stored(), self.notes(), prefix="")


@METHODS.register
class Prompt:
    """Learned virtual tokens."""

    Settings = PromptSettings
    version = 1
    summary = "Learned virtual tokens before every text; tiny, and weak on small bases."
    parameter_formula = "rows · hidden size"
    peft_type: ClassVar[str | None] = "PROMPT_TUNING"
    identity_start = False
    random_start = False
    learning_rate: ClassVar = {"small": 1e-2, "large": 3e-2}
    """Below and from one billion parameters; methods.md §15.3, not swept."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    @staticmethod
    def build(base: Base, settings: PromptSettings, seed: int) -> PromptAdapter:
        """A fresh adapter.

        Raises:
            CapabilityError: the base has no attention that takes more keys.
        """
        adapter = PromptAdapter(base, settings)
        ids = _prompts.tokens(base, settings.text, settings.rows, "prompt")
        if settings.start == "words":
            source = torch.Generator().manual_seed(derive(seed, "prompt"))
            ids = torch.randint(base.vocabulary, (settings.rows,), generator=source).tolist()
        with torch.no_grad(), base.hooks.disabled():
            # Called, not indexed: Gemma multiplies its embeddings.
            embed = base.model.get_input_embeddings()
            adapter.table.copy_(embed(torch.tensor(ids, device=base.device)))
        return adapter

    @staticmethod
    def load(base: Base, folder: Path) -> PromptAdapter:
        """An adapter saved by us or by PEFT.

        Raises:
            DataError: another base, another type, a tensor of another shape.
        """
        config, tensors, noted = _peft_format.read(folder)
        _peft_format.check_base(noted, base.sha256, base.source.name, folder)
        _peft_format.check_type(config, "PROMPT_TUNING", "prompt@1", folder)
        known = noted.get("settings", {}) | {"rows": int(config["num_virtual_tokens"])}
        adapter = PromptAdapter(base, PromptSettings(**known))
        _peft_format.fill(adapter.stored(), tensors, folder)
        return adapter
