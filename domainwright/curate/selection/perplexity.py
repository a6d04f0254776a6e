"""Rows drawn by lot from the middle of what the base finds likely, among rows of their length.

    part      rows between two deciles of length; fewer parts where one would hold under 20 rows
    kept      rows whose loss lies between the quantiles `low` and `high` of their part

A loss in the lowest twentieth belongs to what the base knows by heart, one in the highest often
to noise. The mean loss of a token falls with the length of a row; one band for all rows would
set the longest and the shortest aside.

Source: perplexity bands, Wenzek et al. 2020, CCNet, arXiv:1911.00359; Marion et al. 2023,
arXiv:2309.04564.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from domainwright.core.errors import ConfigError
from domainwright.core.seeds import generator
from domainwright.curate.selection import SELECTIONS, Chosen, Seen

PARTS = 10
LEAST_ROWS = 20
"""In a part: a twentieth of fewer is less than a row."""


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """By lot within the band."""

    low: float = 0.05
    """Quantile of the losses below which a row is refused. In [0, high)."""
    high: float = 0.95
    """Quantile above which a row is refused. In (low, 1]."""

    needs: ClassVar[tuple[str, ...]] = ("losses", "lengths")

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ConfigError(
                f"perplexity keeps losses between the quantiles {self.low} and {self.high}.",
                "give low below high, both within 0 and 1.",
            )

    def choose(self, seen: Seen, count: int) -> Chosen:
        loss_N = seen.loss_N
        assert loss_N is not None and seen.length_N is not None, "perplexity needs losses"
        refused = dict[int, tuple[str, str]]()
        part_N = parts(seen.length_N)
        for part in np.unique(part_N):
            rows = np.flatnonzero(part_N == part)
            low, high = np.quantile(loss_N[rows], [self.low, self.high])
            for row in rows.tolist():
                told = f"loss {loss_N[row]:.3f}, among rows of its length"
                if loss_N[row] < low:
                    refused[row] = ("too_easy", f"{told} below {low:.3f} nats per token")
                elif loss_N[row] > high:
                    refused[row] = ("too_hard", f"{told} above {high:.3f} nats per token")
        order = generator(seen.seed, "select").permutation(seen.count).tolist()
        return Chosen([row for row in order if row not in refused][:count], refused)


def parts(length_N: np.ndarray) -> np.ndarray:
    """Number of each row's part, from the shortest; rows of one length share a part."""
    count = max(1, min(PARTS, len(length_N) // LEAST_ROWS))
    edges = np.quantile(length_N, np.arange(1, count) / count)
    number_N: np.ndarray = np.searchsorted(edges, length_N, side="left")
    return number_N
