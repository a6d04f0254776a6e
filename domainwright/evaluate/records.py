"""What an exam yields."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Mark(NamedTuple):
    """One judgement of one reply."""

    correct: float
    """In [0, 1]; 0 or 1 for exact tasks."""
    parsed: bool
    """False: no answer was found. Its own rate, never folded into `correct`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One test item, asked and marked."""

    id: str
    group: str
    question: str
    reference: str
    reply: str
    mark: Mark
    metrics: dict[str, float] = field(default_factory=dict)
    """Further measures of this item, such as "rouge_l"."""
    loss: float | None = None
    """Nats, summed over the tokens of the reference."""
    loss_tokens: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    passages: tuple[str, ...] = ()
    entities: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Type -> how many spans are right, were given and are true; empty for other tasks."""
    weight: float = 1.0
    """How much it counts in the deciding score; the mean over all test items is 1."""
    marks: tuple[float, ...] = ()
    """Correctness under each training seed, of which `mark` is the mean; empty: one run."""
    fold: str = ""
    """"2/5": answered by what learned from the other four of five folds; empty: no folds, or by
    what learns from no row."""
