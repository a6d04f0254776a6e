"""Rows the base is least sure of.

    multiple choice   the smallest margin p(1) - p(2)
    anything else     the highest loss, without the lowest and the highest 5 % of all rows

Source: margin sampling, Scheffer et al. 2001; perplexity bands, Marion et al. 2023,
arXiv:2309.04564.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from domainwright.curate.selection import SELECTIONS, Chosen, Seen
from domainwright.curate.selection._band import Band


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty(Band):
    """The smallest margins, or the highest losses within a band."""

    needs: ClassVar[tuple[str, ...]] = ("losses", "margins")

    def choose(self, seen: Seen, count: int) -> Chosen:
        if seen.margin_N is not None:
            return Chosen(np.argsort(seen.margin_N, kind="stable")[:count].tolist())
        assert seen.loss_N is not None, "uncertainty needs losses or margins"
        refused = self.outside(seen.loss_N)
        order = np.argsort(-seen.loss_N, kind="stable").tolist()
        return Chosen([row for row in order if row not in refused][:count], refused)
