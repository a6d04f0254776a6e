"""Rows whose loss is neither among the lowest nor among the highest of their like.

A loss in the lowest twentieth belongs to what the base knows by heart, one in the highest often
to noise.
"""

from dataclasses import dataclass

import numpy as np

from domainwright.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Settings of a selection that keeps the middle."""

    low: float = 0.05
    """Quantile of the losses below which a row is refused. In [0, high)."""
    high: float = 0.95
    """Quantile above which a row is refused. In (low, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ConfigError(
                f"{type(self).__name__.lower()} keeps losses between the quantiles {self.low} and "
                f"{self.high}.",
                "give low below high, both within 0 and 1.",
            )

    def outside(self, loss_N: np.ndarray, among: str = "") -> dict[int, tuple[str, str]]:
        """Row -> (reason, detail) of those outside of the band.

        Args:
            among: whose losses these are, for the detail.
        """
        low, high = np.quantile(loss_N, [self.low, self.high])
        refused = dict[int, tuple[str, str]]()
        for row, loss in enumerate(loss_N.tolist()):
            found = f"loss {loss:.3f}{among}"
            if loss < low:
                refused[row] = ("too_easy", f"{found}, below {low:.3f} nats per token")
            elif loss > high:
                refused[row] = ("too_hard", f"{found}, above {high:.3f} nats per token")
        return refused
