"""Why a strategy is over a limit: the one place where what was lost meets what may be lost.

    forgetting    nats per token of general text, up             at most `max_forgetting`
    a task        points of lm-eval's metric, the worse way      at most the task's `max_drop`

Means decide, as everywhere where a limit is a wish of the user's and no question of luck. A task
that was not asked of a strategy, or that has no `max_drop`, limits nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from domainwright.evaluate.kept import TaskKept
from domainwright.maths.bootstrap import Interval
from domainwright.studies.records import StrategyResult

ROUNDING = 1e-9
"""Two items of a hundred are 0.02 also where their mean is a little more."""


@dataclass(frozen=True, slots=True)
class Excess:
    """One limit that a strategy is over."""

    lost: float
    limit: float
    task: str | None = None
    """None: general text, in nats per token."""

    @property
    def said(self) -> str:
        """As what a strategy does: "loses 0.05 on arc_easy, and the limit is 0.02"."""
        what = (
            f"forgets {self.lost:.3f} nats per token of general text"
            if self.task is None
            else f"loses {self.lost:.3g} on {self.task}"
        )
        return f"{what}, and the limit is {self.limit}"

    @property
    def remedy(self) -> str:
        """With what it would not be over the limit."""
        enough = f"{math.ceil(100 * self.lost - ROUNDING) / 100:.2f}"
        if self.task is None:
            return f"a limit of {enough} nats per token or more for forgetting"
        return f"a max_drop of {enough} or more for {self.task}"


@dataclass(frozen=True, slots=True)
class Over:
    """All limits that a strategy is over; at least one."""

    excesses: tuple[Excess, ...]

    @property
    def why(self) -> str:
        return "; ".join(f"it {x.said}" for x in self.excesses)

    @property
    def remedy(self) -> str:
        return " and ".join(x.remedy for x in self.excesses)


def over_limit(
    forgotten: Interval, tasks: Sequence[TaskKept], max_forgetting: float
) -> Over | None:
    """What of this is more than may be lost; None: nothing.

    Args:
        forgotten: nats per token of general text.
        max_forgetting: the limit of that.
    """
    found = []
    if forgotten.mean > max_forgetting:
        found.append(Excess(forgotten.mean, max_forgetting))
    for task in tasks:
        if task.max_drop is not None and task.lost > task.max_drop + ROUNDING:
            found.append(Excess(task.lost, task.max_drop, task.name))
    return Over(tuple(found)) if found else None


def refusal(result: StrategyResult, max_forgetting: float) -> Over | None:
    """Why a strategy may not be recommended; None: it may."""
    kept = result.retention
    return None if kept is None else over_limit(kept.nats_change, kept.tasks, max_forgetting)
