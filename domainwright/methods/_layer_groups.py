"""Layers in groups: slower rates further down, and lower groups that begin later.

    rate of group g     rate · rate_decay^g                g = 0 is the top group
    group g begins      at step round(g · unfreeze_every · steps)

Source: Howard and Ruder 2018, arXiv:1801.06146, sections 3.2 (discriminative fine-tuning, a
factor of 2.6 between four layers) and 3.3 (gradual unfreezing, a layer an epoch).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from domainwright.core.errors import ConfigError
from domainwright.methods._weights import WeightsAdapter
from domainwright.models.base import Base


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroupSettings:
    groups: int = 5
    """Layer groups for the two settings below: the trained blocks in equal parts, what lies behind
    them with the top part, what lies before them with the lowest. At most one a block."""
    rate_decay: float = 1.0
    """Learning rate of a group over that of the group above. 1.0: off. Over 4 to 6 groups ULMFiT's
    1/2.6 = 0.385; with a group for every block 0.9 to 0.95. In (0, 1]."""
    unfreeze_every: float = 0.0
    """Share of the run after which the next lower group begins to train, as 0.15. 0: all from the
    start."""

    def __post_init__(self) -> None:
        if self.groups < 2:
            raise ConfigError(
                f"groups is {self.groups}; one group has nothing below it.",
                "give a number such as 5.",
            )
        if not 0 < self.rate_decay <= 1:
            raise ConfigError(
                f"rate_decay is {self.rate_decay}, outside (0, 1].",
                "give a factor such as 0.385 between groups, or 1.0 for one rate.",
            )
        if not 0 <= self.unfreeze_every * (self.groups - 1) < 1:
            raise ConfigError(
                f"unfreeze_every is {self.unfreeze_every}, and the lowest of {self.groups} groups "
                f"would begin after {self.unfreeze_every * (self.groups - 1):.2f} of the run.",
                f"give a share of the run below {1 / (self.groups - 1):.2f}, or fewer groups.",
            )


class LayerGroupsAdapter(WeightsAdapter):
    """New values of parameters that are trained group by group."""

    def __init__(self, base: Base, settings: LayerGroupSettings, names: Sequence[str]) -> None:
        super().__init__(base, settings, names)
        self.group_of = layer_groups(base, self.names, settings.groups)

    def rate_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        decay = self.settings.rate_decay
        if decay == 1.0:
            return super().rate_groups()
        return [
            (
                [v for v, g in zip(self.values, self.group_of, strict=True) if g == group],
                decay**group,
            )
            for group in range(max(self.group_of) + 1)
        ]

    @contextmanager
    def learning(self, step: int, steps: int) -> Iterator[None]:
        every = self.settings.unfreeze_every
        waiting = [
            value
            for value, group in zip(self.values, self.group_of, strict=True)
            if step < round(group * every * steps)
        ]
        # Frozen, not taken from the optimiser: without a gradient it passes them over, and the
        # moments of the others stay. Below the lowest trained group nothing is differentiated.
        for value in waiting:
            value.requires_grad_(False)
        try:
            yield
        finally:
            for value in waiting:
                value.requires_grad_(True)


def layer_groups(base: Base, names: Sequence[str], groups: int) -> list[int]:
    """The group of every parameter called `names`, 0 for the top one."""
    paths = [site.path + "." for site in base.hooks.at("block")]
    block_of = {n: i for n in names for i, path in enumerate(paths) if n.startswith(path)}
    trained = sorted(set(block_of.values()), reverse=True)
    count = min(groups, len(trained))
    group_of_block = {block: i * count // len(trained) for i, block in enumerate(trained)}
    every = [name for name, _ in base.model.named_parameters()]
    first = min(i for i, name in enumerate(every) if name.startswith(paths[0]))
    # Some families define the last norm before the blocks.
    last = tuple(s.path + "." for s in base.hooks.at("norm") if s.block is None)[-1:]
    before = {name for name in every[:first] if not name.startswith(last)}
    return [
        group_of_block[block_of[name]] if name in block_of else (count - 1) * (name in before)
        for name in names
    ]
