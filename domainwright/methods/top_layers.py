"""Top layers: learn new values of the last blocks and the last norm, and freeze the rest.

    W'  for every parameter of the blocks L − n … L − 1 and of the norm behind them

Below the lowest trained block nothing is differentiated. The trained blocks may begin one group
after the other, at falling rates (`_layer_groups`). Howard and Ruder 2018,
arXiv:1801.06146, section 3.3: the upper layers hold what is specific to a task.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from domainwright.core.errors import ConfigError
from domainwright.methods import METHODS, _weights
from domainwright.methods._layer_groups import LayerGroupsAdapter, LayerGroupSettings
from domainwright.models.base import Base


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLayersSettings(LayerGroupSettings):
    blocks: int | None = None
    """How many of the last blocks are trained. None: a quarter of them, at least one."""

    def __post_init__(self) -> None:
        LayerGroupSettings.__post_init__(self)
        if self.blocks is not None and self.blocks < 1:
            raise ConfigError(
                f"top_layers.blocks is {self.blocks}; without a block nothing is trained.",
                "give a number such as 4.",
            )


class TopLayersAdapter(LayerGroupsAdapter):
    method, version = "top_layers", 1


def _adapter(base: Base, settings: TopLayersSettings) -> TopLayersAdapter:
    _weights.need_full_weights(base, "top_layers")
    blocks = base.hooks.at("block")
    count = max(1, len(blocks) // 4) if settings.blocks is None else settings.blocks
    if count > len(blocks):
        raise ConfigError(
            f"top_layers.blocks is {count}, and {base.source.name} has {len(blocks)} blocks.",
            f"give at most {len(blocks)}, or choose full.",
        )
    last = [s.path for s in base.hooks.at("norm") if s.block is None][-1:]
    places = (*(s.path + "." for s in blocks[-count:]), *(path + "." for path in last))
    names = [n for n, _ in base.model.named_parameters() if n.startswith(places)]
    return TopLayersAdapter(base, settings, names)


@METHODS.register
class TopLayers:
    """Every weight of the last blocks."""

    Settings = TopLayersSettings
    version = 1
    summary = "New values of every weight in the last blocks; cheaper than full, and local."
    parameter_formula = "all parameters of the last n blocks + of the last norm"
    peft_type: ClassVar[str | None] = None
    identity_start = True
    random_start = False
    learning_rate: ClassVar = {"small": 2e-4, "large": 2e-5}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
    merge_rtol: ClassVar = _weights.MERGE_RTOL

    @staticmethod
    def build(base: Base, settings: TopLayersSettings, seed: int) -> TopLayersAdapter:
        """A fresh adapter: the base's own values.

        Raises:
            ConfigError: more blocks than the base has.
        """
        return _adapter(base, settings)

    @staticmethod
    def load(base: Base, folder: Path) -> TopLayersAdapter:
        """An adapter saved by us.

        Raises:
            DataError: another base, a missing or surplus tensor.
        """
        adapter: TopLayersAdapter = _weights.load(TopLayers, _adapter, base, folder)
        return adapter
