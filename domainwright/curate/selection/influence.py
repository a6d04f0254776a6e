"""Rows whose gradients point where the development rows' do: LESS.

    influence   Σ over checkpoints of rate · mean over development rows of cos(g_row, g_development)

g_row has the form of an Adam update, g_development is the plain gradient; both are those of a
short LoRA warm-up. The rows are read in the study, which has the base; here the highest
influences are taken.

Source: Xia et al. 2024, arXiv:2402.04333.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from domainwright.core.errors import ConfigError
from domainwright.curate.selection import SELECTIONS, Chosen, Seen


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    """The rows with the highest influence."""

    share: float = 0.05
    """Share of the rows that the warm-up trains on, at least 16 rows. In (0, 1]."""
    epochs: int = 4
    """Of the warm-up; after each, all rows are read once, forwards and backwards."""
    rank: int = 4
    """Of the warm-up's LoRA, on the linear layers of attention."""

    needs: ClassVar[tuple[str, ...]] = ("influence",)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(
                f"influence warms up on a share of {self.share}, outside (0, 1].",
                "give a share of the rows such as 0.05.",
            )
        for name in ("epochs", "rank"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"influence has {name} {getattr(self, name)}.", "give a whole number from 1."
                )

    def choose(self, seen: Seen, count: int) -> Chosen:
        value_N = seen.influence_N
        assert value_N is not None, "influence needs influences"
        refused = {
            int(row): ("nothing_learned", "no token of its answer fits into train.max_tokens")
            for row in np.flatnonzero(np.isnan(value_N))
        }
        order = np.argsort(-value_N, kind="stable").tolist()
        return Chosen([row for row in order if row not in refused][:count], refused)
