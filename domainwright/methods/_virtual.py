"""Virtual tokens: learned rows that stand before every text, whatever makes them.

    X' = [p_1 … p_P ; embedding(x)]        p ∈ R^{P×D}

Attention is causal, so the virtual tokens never see the text: the base reads them once per
batch, and every layer of every document attends to their keys and values. So packed documents
share them, and a cache of answers holds the text alone. Prompt tuning learns p itself; other
methods learn what p is made from.

Dimension key: P virtual tokens, D hidden size, K key/value heads, h head size.
"""

import abc
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from domainwright.core.errors import CapabilityError
from domainwright.methods import _prompts
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.hooks import Hook


class VirtualTokens(Adapter):
    """An adapter whose `rows` are read before every text."""

    # The virtual tokens are read once, for the whole batch.
    shares_batch: ClassVar[bool] = False

    def __init__(self, base: Base, settings: Any) -> None:
        super().__init__(base, settings)
        self.sites = _prompts.attending(base, self.method)

    @abc.abstractmethod
    def rows(self) -> Tensor:
        """The embeddings (P, D) of the virtual tokens, float32, made anew at every call."""

    def places(self) -> Iterator[tuple[str, Hook]]:
        read = _Read(self)
        yield _prompts.positions(self.base, self.method).path, read
        for layer, site in enumerate(self.sites):
            yield site.path, _Layer(read, layer)

    def peft_config(self, peft_type: str) -> dict[str, Any]:
        """PEFT's config of a prompt before the embeddings."""
        heads = int(self.base.model.config.get_text_config().num_attention_heads)
        rows = int(self.settings.rows)
        return _prompts.config(peft_type, self.base, rows, width(self.base), heads)


class _Read(_prompts.Shift):
    """The virtual tokens' keys and values, read anew whenever the base reads a batch.

    Nothing is kept from one batch to the next: what was read before an optimiser step, or
    beside another adapter, would be stale.
    """

    def __init__(self, adapter: VirtualTokens) -> None:
        super().__init__(adapter.settings.rows)
        self.adapter = adapter
        self.resting = False
        """True while the virtual tokens themselves are read."""
        self.layers: list[tuple[Tensor, Tensor]] = []

    def begin(self) -> None:
        base = self.adapter.base
        if base.hooks.shared:
            raise CapabilityError(
                f"{self.adapter.method} reads its virtual tokens once for a whole batch, so it "
                "cannot share one with other adapters.",
                "give it a batch of its own.",
            )
        layers = [_Last() for _ in base.hooks.at("block")]
        cache = Cache(layers=[*layers])
        embedded = self.adapter.rows().to(base.dtype)[None]
        self.resting = True
        try:
            base.model.base_model(
                inputs_embeds=embedded,
                position_ids=torch.arange(embedded.shape[1], device=embedded.device)[None],
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


def width(base: Base) -> int:
    """D, the size of an embedding."""
    return int(base.model.get_input_embeddings().weight.shape[1])


@torch.no_grad()
def embedded(base: Base, ids: Sequence[int]) -> Tensor:
    """The embeddings (P, D) of some tokens as the base reads them, float32."""
    with base.hooks.disabled():
        # Called, not indexed: Gemma multiplies its embeddings.
        found: Tensor = base.model.get_input_embeddings()(torch.tensor(ids, device=base.device))
    return found.float()
