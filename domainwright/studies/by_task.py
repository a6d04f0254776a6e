"""Scores task by task, where the test rows are of several."""

from collections.abc import Mapping, Sequence
from itertools import compress

from domainwright.evaluate.records import Item
from domainwright.studies._scores import weighed
from domainwright.studies.judge import REFERENCE, lead, score_of
from domainwright.studies.task_records import TaskScore

FEWEST_ITEMS = 5
"""A task with fewer test items gets no score of its own."""


def by_task(items: Mapping[str, Sequence[Item]], task_of: Mapping[str, str]) -> list[TaskScore]:
    """Every strategy on every task; nothing where there is one task only.

    Args:
        items: strategy -> its marked items, all in one order.
        task_of: row -> task.
    """
    some = next(iter(items.values()), [])
    tasks = [task_of.get(item.id, "") for item in some]
    several = sorted({t for t in tasks if tasks.count(t) >= FEWEST_ITEMS})
    if len(set(tasks)) < 2:
        return []
    found = []
    for task in several:
        here = [t == task for t in tasks]
        reference = weighed(list(compress(items.get(REFERENCE, []), here)))
        for name, every in items.items():
            own = weighed(list(compress(every, here)))
            found.append(
                TaskScore(
                    strategy=name,
                    task=task,
                    items=len(own),
                    score=score_of(own),
                    difference=lead(own, reference) if reference and name != REFERENCE else None,
                )
            )
    return found
