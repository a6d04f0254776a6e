"""Drawing a token from a distribution, so that each draw is its own.

    token = the first with  P(token or one before it) > u        u ~ U[0, 1)

u follows from (seed, number of the prompt, place in the answer) alone: which prompts are
answered beside it, and in which row, changes nothing but the rounding of the logits.

Dimension key: B rows, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from domainwright.core.errors import ConfigError
from domainwright.core.seeds import share


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Draw tokens instead of taking the likeliest."""

    temperature: float = 1.0
    """Logits are divided by it. Above 0."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"The temperature is {self.temperature}.",
                "give a number above 0, or no sampling for the likeliest tokens.",
            )

    def drawn(self, logits_BV: Tensor, places: Sequence[tuple[int, int]]) -> list[int]:
        """One token a row.

        Args:
            places: (number of the prompt, place in its answer) of each row.
        """
        shares = [share(self.seed, f"sample {prompt} {place}") for prompt, place in places]
        # Summed in float64: a tail of a thousandth over 50,000 tokens is lost in float32.
        sums_BV = (logits_BV.float() / self.temperature).softmax(1).double().cumsum(1)
        wanted_B1 = torch.tensor(shares, dtype=torch.float64, device=sums_BV.device)[:, None]
        found_B1 = torch.searchsorted(sums_BV, wanted_B1 * sums_BV[:, -1:], right=True)
        tokens: list[int] = found_B1[:, 0].clamp_max(sums_BV.shape[1] - 1).tolist()
        return tokens
