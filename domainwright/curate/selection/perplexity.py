"""Rows drawn by lot from the middle of what the base finds likely, among rows of their length.

    part      rows between two deciles of length; fewer parts where one would hold under 20 rows
    kept      rows whose loss lies between the quantiles `low` and `high` of their part

The mean loss of a token falls with the length of a row; one band for all rows would
set the longest and the shortest aside.

Source: perplexity bands, Wenzek et al. 2020, CCNet, arXiv:1911.00359; Marion et al. 2023,
arXiv:2309.04564.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from domainwright.core.seeds import generator
from domainwright.curate.selection import SELECTIONS, Chosen, Seen
from domainwright.curate.selection._band import Band

PARTS = 10
LEAST_ROWS = 20
"""In a part: a twentieth of fewer is less than a row."""


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity(Band):
    """By lot within the band."""

    needs: ClassVar[tuple[str, ...]] = ("losses", "lengths")

    def choose(self, seen: Seen, count: int) -> Chosen:
        loss_N = seen.loss_N
        assert loss_N is not None and seen.length_N is not None, "perplexity needs losses"
        refused = dict[int, tuple[str, str]]()
        part_N = parts(seen.length_N)
        for part in np.unique(part_N):
            rows = np.flatnonzero(part_N == part)
            outside = self.outside(loss_N[rows], " among rows of its length")
            refused.update({int(rows[n]): why for n, why in outside.items()})
        order = generator(seen.seed, "select").permutation(seen.count).tolist()
        return Chosen([row for row in order if row not in refused][:count], refused)


def parts(length_N: np.ndarray) -> np.ndarray:
    """Number of each row's part, from the shortest; rows of one length share a part."""
    count = max(1, min(PARTS, len(length_N) // LEAST_ROWS))
    edges = np.quantile(length_N, np.arange(1, count) / count)
    number_N: np.ndarray = np.searchsorted(edges, length_N, side="left")
    return number_N
