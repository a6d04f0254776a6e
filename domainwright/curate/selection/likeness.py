"""Rows that mean what a target is about: nearest to it by sentence vectors.

    chosen   the largest mean cosine with the row's `nearest` nearest texts of the target

`relevance` weighs words, and draws by lot; this finds other words for the same matter, and takes
the nearest. Rows that are alike are chosen together: take copies out first.

Dimension key: N rows, M texts of the target, D numbers of a sentence vector.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from domainwright.core.errors import ConfigError
from domainwright.curate.selection import SELECTIONS, Chosen, Seen

_AT_ONCE = 1_024
"""Rows whose cosines with the whole target are in memory at a time."""


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """Rows nearest in meaning to the target."""

    nearest: int = 5
    """Texts of the target that count for a row: a row need not be like all of it."""

    needs: ClassVar[tuple[str, ...]] = ("vectors", "target_vectors")

    def __post_init__(self) -> None:
        if self.nearest < 1:
            raise ConfigError(f"likeness.nearest is {self.nearest}.", "give a number from 1.")

    def choose(self, seen: Seen, count: int) -> Chosen:
        z_ND, t_MD = seen.vectors_ND, seen.target_vectors_MD
        assert z_ND is not None and t_MD is not None, "likeness needs vectors of rows and target"
        few = min(self.nearest, len(t_MD))
        parts = []
        for begin in range(0, len(z_ND), _AT_ONCE):
            cosine_NM = z_ND[begin : begin + _AT_ONCE] @ t_MD.T
            best_NF = np.partition(cosine_NM, -few, axis=1)[:, -few:]
            parts.append(np.sort(best_NF, axis=1).mean(axis=1))
        # Six digits: sums of products differ in the last ones with the size of a batch.
        like_N = np.concatenate(parts).round(6)
        return Chosen(np.argsort(-like_N, kind="stable")[:count].tolist())
