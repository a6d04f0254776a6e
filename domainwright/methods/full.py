"""Full fine-tuning: learn new values of every weight of the base.

    W'  for every parameter, embeddings and head included (tied ones stay one)

The strongest and the most expensive way; it also forgets the most. The base stays as it is:
the new values live in the adapter, so detaching gives the base back bit for bit. It shares no
flat batch with other adapters, because a product has one weight. Layers may learn at falling
rates and begin one group after the other, from the top (`_layer_groups`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from domainwright.methods import METHODS, _weights
from domainwright.methods._layer_groups import LayerGroupsAdapter, LayerGroupSettings
from domainwright.models.base import Base


@dataclass(frozen=True, slots=True, kw_only=True)
class FullSettings(LayerGroupSettings):
    embeddings: bool = True
    """Train the embeddings and the head too."""


class FullAdapter(LayerGroupsAdapter):
    method, version = "full", 1


def _adapter(base: Base, settings: FullSettings) -> FullAdapter:
    _weights.need_full_weights(base, "full")
    model = base.model
    kept = []
    if not settings.embeddings:
        ends = model.get_input_embeddings(), model.get_output_embeddings()
        kept = [parameter for end in ends for parameter in end.parameters()]
    names = [n for n, p in model.named_parameters() if not any(p is one for one in kept)]
    return FullAdapter(base, settings, names)


@METHODS.register
class Full:
    """Every weight."""

    Settings = FullSettings
    version = 1
    summary = "New values of every weight: the most capacity, the most memory and forgetting."
    parameter_formula = "all parameters of the base; tied ones count once"
    peft_type: ClassVar[str | None] = None
    identity_start = True
    random_start = False
    learning_rate: ClassVar = {"small": 1e-4, "large": 1e-5}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
    merge_rtol: ClassVar = _weights.MERGE_RTOL

    @staticmethod
    def build(base: Base, settings: FullSettings, seed: int) -> FullAdapter:
        """A fresh adapter: the base's own values."""
        return _adapter(base, settings)

    @staticmethod
    def load(base: Base, folder: Path) -> FullAdapter:
        """An adapter saved by us.

        Raises:
            DataError: another base, a missing or surplus tensor.
        """
        adapter: FullAdapter = _weights.load(Full, _adapter, base, folder)
        return adapter
