"""What a verdict says of adapters that answer one task each."""

from dataclasses import dataclass

from domainwright.maths.bootstrap import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGain:
    """One task's own adapter beside the one of all tasks, on the test items of the task."""

    task: str
    items: int
    gain: Interval
    """By how much its own is better, paired."""
