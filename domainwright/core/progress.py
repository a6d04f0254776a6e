"""How long work is going: the library tells, the command line shows.

The library prints nothing. It calls a `Listener` with `Step` records; `quiet`
is the listener that ignores them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of progress."""

    stage: str
    """What is being done: "train lora", "answers rag"."""
    done: int
    total: int
    facts: dict[str, str] = field(default_factory=dict)
    """What to show beside the bar: {"loss": "1.93", "tokens/s": "352"}."""


Listener = Callable[[Step], None]


def quiet(step: Step) -> None:
    """Ignore progress."""
