"""What an adapter changes, whatever its method: all that a combination needs to know of it.

Dimension key: I inputs of a layer, O outputs, R rank.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """One of the two is empty."""

    low_rank: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Path of a layer -> (A (R, I), B (O, R)) with ΔW = B A: every scale is in B."""
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """Name of a parameter of the base -> its new value."""


@dataclass(frozen=True, slots=True)
class Joined:
    changes: Changes
    weights: tuple[float, ...]
    """What each member counts in it, in their order; 0: left out."""


LossOf = Callable[[Changes], float]
"""Mean loss of a combination on held-out rows, nats per token."""
