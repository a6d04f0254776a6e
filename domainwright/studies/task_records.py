"""The parts of a verdict that speak of several tasks, or of several turns."""

from dataclasses import dataclass, field

from domainwright.maths.bootstrap import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """One strategy on the test items of one task."""

    strategy: str
    task: str
    items: int
    score: Interval
    difference: Interval | None = None
    """From zero_shot there; None for zero_shot itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What learning one task does for another."""

    task: str
    on: str
    gain: Interval
    """What it takes off the development loss of `on`, nats per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Runs of one method, each without one of the tasks, beside the run on all."""

    method: str
    effects: list[Effect]
    failed: dict[str, str] = field(default_factory=dict)
    """Task -> why the run without it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InSequence:
    """Tasks that one method learned one after the other; see `studies.sequence`."""

    method: str
    tasks: list[str]
    """In the order in which they were learned."""
    steps: list[int]
    """Of every stage."""
    losses: list[list[float]]
    """R: for the base and after every stage, the development loss of each task, nats per token."""
    moved: list[float]
    """Likewise the distance from the base on general text, mean KL in nats per token."""
    backward: Interval | None
    """Below 0: later tasks cost earlier ones that much. None: the sequence was not finished."""
    forward: Interval | None
    """Above 0: earlier tasks take that much off the loss of those not yet learned."""
    failed: str = ""
    """Which stage failed, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnScore:
    """One strategy at one turn."""

    turn: int
    """From 1."""
    items: int
    """Conversations that have so many turns."""
    own: Interval
    """Score after its own earlier replies."""
    file: Interval
    """After the file's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coherence:
    """One strategy over the turns of conversations, of the first training seed."""

    strategy: str
    conversations: int
    """Asked turn by turn."""
    turns: list[TurnScore] = field(default_factory=list)
    cost: Interval | None = None
    """Of the last turn: after its own replies, less after the file's."""
    later: int = 0
    """Replies behind the first of their conversation."""
    repeated: int = 0
    """Of them those that say word for word what it has said before."""
    repeated_in_file: int = 0
    """The same count of the file's replies."""
    failed: str = ""
    """Why it could not be asked."""
