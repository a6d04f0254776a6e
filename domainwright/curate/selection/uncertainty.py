"""Rows the base is least sure of.

    multiple choice   the smallest margin p(1) - p(2)
    anything else     the highest loss, without the lowest and the highest 5 % of all rows

A loss in the lowest twentieth belongs to what the base knows by heart, one in the highest often
to noise: such rows are refused.

Source: margin sampling, Scheffer et al. 2001; perplexity bands, Marion et al. 2023,
arXiv:2309.04564.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from domainwright.core.errors import ConfigError
from domainwright.curate.selection import SELECTIONS, Chosen, Seen


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """The smallest margins, or the highest losses within a band."""

    low: float = 0.05
    """Quantile of the losses below which a row is refused. In [0, high)."""
    high: float = 0.95
    """Quantile above which a row is refused. In (low, 1]."""

    needs: ClassVar[tuple[str, ...]] = ("losses", "margins")

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ConfigError(
                f"uncertainty keeps losses between the quantiles {self.low} and {self.high}.",
                "give low below high, both within 0 and 1.",
            )

    def choose(self, seen: Seen, count: int) -> Chosen:
        if seen.margin_N is not None:
            return Chosen(np.argsort(seen.margin_N, kind="stable")[:count].tolist())
        assert seen.loss_N is not None, "uncertainty needs losses or margins"
        low, high = np.quantile(seen.loss_N, [self.low, self.high])
        refused = dict[int, tuple[str, str]]()
        for row, loss in enumerate(seen.loss_N.tolist()):
            if loss < low:
                refused[row] = ("too_easy", f"loss {loss:.3f}, below {low:.3f} nats per token")
            elif loss > high:
                refused[row] = ("too_hard", f"loss {loss:.3f}, above {high:.3f} nats per token")
        order = np.argsort(-seen.loss_N, kind="stable").tolist()
        return Chosen([row for row in order if row not in refused][:count], refused)
