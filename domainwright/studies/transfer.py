"""What each task of a run does for the others: the same method without it, task by task.

    effect of A on B = (Σ loss of B without A - Σ loss of B with all) / supervised tokens of B

on development rows, with a bootstrap over their groups: above 0, learning A too takes something
off the loss of B. The run without A takes as many passes over the other rows as the whole run, so
every other task is learned as long; A on itself says what its rows are worth.
"""

from collections.abc import Callable, Mapping, Sequence

from domainwright.core.errors import RunFailed
from domainwright.core.records import Row
from domainwright.maths.bootstrap import Interval
from domainwright.studies._format import loss_change
from domainwright.studies.ablation import Losses, gain
from domainwright.studies.task_records import Effect, Transfer

FEWEST_ROWS = 4
"""Development rows of a task below which nothing is said of it."""


def transfer(
    method: str,
    rows: Sequence[Row],
    task_of: Mapping[str, str],
    steps: int,
    losses_of: Callable[[Sequence[Row], int, str | None], Losses],
    groups: Mapping[str, str],
) -> Transfer | None:
    """The matrix of one method; None where fewer than two tasks have rows to learn and to judge.

    Args:
        rows: training rows.
        task_of: row -> task.
        steps: of the run on all rows.
        losses_of: (rows, steps, task left out) -> losses of every development row after that run.
        groups: development row -> group.
    """
    learned = {task_of.get(row.id, "") for row in rows}
    if len(learned) < 2:
        return None
    whole = losses_of(rows, steps, None)
    judged = [task for task in sorted(learned) if len(of_task(whole, task, task_of)) >= FEWEST_ROWS]
    if len(judged) < 2:
        return None
    effects, failed = [], dict[str, str]()
    for task in sorted(learned):
        left = [row for row in rows if task_of.get(row.id, "") != task]
        try:
            without = losses_of(left, max(1, round(steps * len(left) / len(rows))), task)
        except RunFailed as error:
            failed[task] = error.cause
            continue
        for on in judged:
            before, after = (of_task(x, on, task_of) for x in (without, whole))
            effects.append(Effect(task=task, on=on, gain=gain(before, after, groups)))
    return Transfer(method=method, effects=effects, failed=failed)


def advice(found: Transfer) -> list[str]:
    """A sentence for every task that helps or hurts another one beyond doubt."""
    told = [
        f"Learning {e.task} too {'helps' if e.gain.mean > 0 else 'hurts'} {e.on}: it "
        f"{'takes' if e.gain.mean > 0 else 'puts'} {_size(e.gain)} "
        f"{'off' if e.gain.mean > 0 else 'on'} its loss ({found.method})."
        for e in found.effects
        if e.task != e.on and e.gain.decided
    ]
    told += [
        f"What {task} does for the others is not known: without it, {cause}"
        for task, cause in found.failed.items()
    ]
    return told or ["No task helps or hurts another one as far as the development rows can show."]


def of_task(losses: Losses, task: str, task_of: Mapping[str, str]) -> Losses:
    """The rows of one task; pieces of a text have its id and a number."""
    return [
        entry
        for entry in losses
        if task_of.get(entry[0], task_of.get(entry[0].rpartition("#")[0])) == task
    ]


def _size(change: Interval) -> str:
    """How large a change is, whichever way it goes; its interval is on one side of zero."""
    low, high = sorted((abs(change.low), abs(change.high)))
    return loss_change(Interval(abs(change.mean), low, high))
