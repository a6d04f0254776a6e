"""What every penalty is, and the settings that every one has."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from domainwright.core.errors import ConfigError
from domainwright.core.progress import Listener, quiet
from domainwright.models.forms import TrainRow


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltySettings:
    weight: float
    """How much it counts beside the mean loss of a token. Above 0."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ConfigError(
                f"A penalty's weight is {self.weight}.",
                "give a number above 0, or leave the penalty out.",
            )


@dataclass(frozen=True, slots=True)
class Given:
    """What a penalty may need of the study."""

    rows: Sequence[TrainRow] = ()
    """General rows."""
    folder: Path | None = None
    """Where what is found out once is kept; None: nothing is to be found out, as in a probe."""
    listen: Listener = quiet


class Penalty:
    """One penalty of one run."""

    name: str
    anchor: float = 0.0
    """Weight of the divergence from the base's predictions, for the loss head."""

    def parts(self) -> Iterator[Tensor]:
        """What the adapter's parameters cost now, weight included, as scalars to be summed.

        One by one, because each one's graph is gone before the next is made.
        """
        yield from ()
