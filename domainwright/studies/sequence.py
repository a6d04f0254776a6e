"""Tasks learned one after the other: what each brings to the next, and what is lost on the way.

    R[i, j]     loss on task j after stage i, nats per token; stage 0 is the base
    backward    Σ_{j < n} (R[j, j] - R[n, j])       below 0: what was learned first is lost later
    forward     Σ_{j > 1} (R[0, j] - R[j - 1, j])   above 0: earlier tasks help one not yet learned

on development rows, both over all supervised tokens of the tasks in the sum, with a bootstrap over
groups. Every stage goes on from the state in which the one before it ended, on the rows of its task
alone, and takes the share of the steps that those rows have.

Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, with losses in place of accuracies and tokens
in place of tasks.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from domainwright.core.errors import ConfigError, RunFailed
from domainwright.core.records import Row
from domainwright.maths.bootstrap import Interval
from domainwright.studies._format import loss_change
from domainwright.studies.ablation import Losses, gain
from domainwright.studies.task_records import InSequence
from domainwright.studies.transfer import FEWEST_ROWS, of_task

Stage = Callable[[Sequence[Row], int, int], tuple[Losses, float]]
"""(rows, number from 1, steps) -> (losses of all development rows after that stage, distance from
the base on general text). Number 0, without rows or steps: before the first."""


def in_sequence(
    method: str,
    order: Sequence[str],
    rows: Sequence[Row],
    task_of: Mapping[str, str],
    steps: int,
    stage: Stage,
    groups: Mapping[str, str],
) -> InSequence:
    """The matrix of one method.

    Args:
        order: the tasks in the order in which they are learned.
        rows: training rows of all of them.
        steps: of a run on all rows.
        groups: development row -> group.
    """
    read, moved, taken, failed = [stage([], 0, 0)[0]], [0.0], list[int](), ""

    def losses(then: int, number: int) -> Losses:
        return of_task(read[then], order[number - 1], task_of)

    few = [task for n, task in enumerate(order, 1) if len(losses(0, n)) < FEWEST_ROWS]
    if few:
        failed = f"fewer than {FEWEST_ROWS} development rows of {', '.join(few)} were read."
    for number, task in enumerate([] if few else order, 1):
        own = [row for row in rows if task_of.get(row.id) == task]
        share = max(1, round(steps * len(own) / len(rows)))
        try:
            found, away = stage(own, number, share)
        except RunFailed as error:
            failed = f"in stage {number}, {task}: {error.cause}"
            break
        read.append(found)
        moved.append(away)
        taken.append(share)

    def over(pairs: Iterable[tuple[Losses, Losses]]) -> Interval | None:
        """Of (before, after) of several tasks."""
        if failed:
            return None
        both = [pair for two in pairs for pair in zip(*two, strict=True)]
        return gain([before for before, _ in both], [after for _, after in both], groups)

    last = len(order)
    return InSequence(
        method=method,
        tasks=list(order),
        steps=taken,
        losses=[[_mean(losses(i, j)) for j in range(1, last + 1)] for i in range(len(read))]
        if not few
        else [],
        moved=moved if not few else [],
        backward=over((losses(j, j), losses(last, j)) for j in range(1, last)),
        forward=over((losses(0, j), losses(j - 1, j)) for j in range(2, last + 1)),
        failed=failed,
    )


def checked(order: Sequence[str], tasks: Iterable[str]) -> tuple[str, ...]:
    """The order, which names every task of the training rows once.

    Raises:
        ConfigError: it does not, or there is one task alone.
    """
    known = sorted(set(tasks))
    if sorted(order) != known or len(known) < 2:
        raise ConfigError(
            f"evaluate.sequence is {', '.join(order)}, and the training rows' tasks are "
            f"{', '.join(known)}.",
            "name every task once, two or more; `task:` beside a file's `path:` names its task.",
        )
    return tuple(order)


def advice(found: InSequence) -> list[str]:
    """What a sequence says, in sentences."""
    if found.failed:
        return [f"The sequence of tasks ({found.method}) was not finished: {found.failed}"]
    told = []
    route = f"Learned one after the other ({', '.join(found.tasks)}; {found.method})"
    if found.backward and found.backward.decided:
        way = "lose" if found.backward.mean < 0 else "gain"
        told.append(f"{route}, earlier tasks {way} {_size(found.backward)} by later ones.")
    if found.forward and found.forward.decided:
        way = "take" if found.forward.mean > 0 else "put"
        where = "off" if found.forward.mean > 0 else "on"
        size = _size(found.forward)
        told.append(f"{route}, earlier tasks {way} {size} {where} the loss of later ones.")
    return told or [f"{route}, no task gains or loses as far as the development rows can show."]


def _mean(losses: Losses) -> float:
    return sum(loss for _, loss, _ in losses) / sum(tokens for _, _, tokens in losses)


def _size(change: Interval) -> str:
    low, high = sorted((abs(change.low), abs(change.high)))
    return loss_change(Interval(abs(change.mean), low, high))
