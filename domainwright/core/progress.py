"""How long work is going: the library tells, the command line shows.

The library prints nothing. It calls a `Listener` with `Step` records; `quiet`
is the listener that ignores them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one strategy of a study stands."""

    name: str
    status: Literal["waiting", "running", "done", "failed"] = "waiting"
    doing: str = ""
    """What is done for it now: "training step 40 of 100"."""
    score: str = ""
    """As far as it is known, with its interval: "token F1 0.44 [0.39, 0.49]"."""


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of progress."""

    stage: str
    """What is being done: "train lora", "answers rag"."""
    done: int
    total: int
    facts: dict[str, str] = field(default_factory=dict)
    """What to show beside the bar: {"loss": "1.93", "tokens/s": "352"}."""
    standings: tuple[Standing, ...] = ()
    """Of a study: all its strategies, in the order in which they are run."""
    left_s: float | None = None
    """Seconds that the study will still take; None: not known."""
    marks: Sequence[tuple[str, float]] = ()
    """(group, mark) of every item that is answered already."""


Listener = Callable[[Step], None]


def quiet(step: Step) -> None:
    """Ignore progress."""
