"""Rows whose question helps least with their answer: instruction-following difficulty.

    IFD = exp(mean CE(answer | question)) / exp(mean CE(answer))

The highest below 1 are kept. At 1 or above the base finds the answer no likelier with its
question than without: the two do not belong together, and the row is refused.

Source: Li et al. 2024, arXiv:2308.12032.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from domainwright.curate.selection import SELECTIONS, Chosen, Seen


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """The rows with the highest ratio below 1."""

    needs: ClassVar[tuple[str, ...]] = ("losses", "alone")

    def choose(self, seen: Seen, count: int) -> Chosen:
        assert seen.loss_N is not None and seen.alone_N is not None, "difficulty needs losses"
        ratio_N = np.exp(seen.loss_N - seen.alone_N)
        refused = {
            int(row): (
                "question_no_help",
                f"the answer is no likelier with its question (ratio {ratio_N[row]:.3f})",
            )
            for row in np.flatnonzero(~(ratio_N < 1))
        }
        order = np.argsort(-ratio_N, kind="stable").tolist()
        return Chosen([row for row in order if row not in refused][:count], refused)
