"""What a verdict says of a gate."""

from dataclasses import dataclass

from domainwright.maths.bootstrap import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Gating:
    """What reached the adapter of a gated strategy; the untouched base answered the rest."""

    share: float
    """Of the development rows that had to pass."""
    threshold: float
    """Mean cosine with the nearest training rows from which an input passes."""
    development: int
    """Rows on which the threshold was fitted."""
    development_passed: int
    tested: int
    tested_passed: int
    """Test items that the adapter answered."""
    general: int
    """Texts and questions on which forgetting is measured."""
    general_passed: int
    """False positives: those that the adapter answered."""
    ungated_change: Interval
    """Nats per token that the adapter forgets where it is always on."""
