"""Whole counts from shares, and an order that holds the shares at every place.

Each task gets ⌊p_i · total⌋ rows, and what is left goes to the largest remainders. Inside an epoch
the tasks are interleaved so that after any number of rows each is less than one row away from its
share; a step of B rows thus holds p_i · B of each, to two rows.

Source: Tijdeman 1980, "The chairman assignment problem" (the order).
"""

import math
from collections.abc import Mapping, Sequence

from domainwright.core.seeds import generator


def quotas(share: Mapping[str, float], total: int) -> dict[str, int]:
    """Task -> rows, adding up to `total`; of equal remainders the first task's counts.

    >>> quotas({"a": 0.5, "b": 0.3, "c": 0.2}, 7)
    {'a': 4, 'b': 2, 'c': 1}
    """
    exact = {task: p * total for task, p in share.items()}
    found = {task: math.floor(x + 1e-9) for task, x in exact.items()}
    order = sorted(exact, key=lambda task: found[task] - exact[task])
    for task in order[: total - sum(found.values())]:
        found[task] += 1
    return found


def interleaved(counts: Mapping[str, int]) -> list[str]:
    """A task for every place of an epoch, each as often as counted, none ever a row ahead or late.

    At place t a task may come that lacks 1 / (2m - 2) rows or more of its share of t rows, m tasks
    in all; of those the one whose next row is due first.
    """
    live = {task: count for task, count in counts.items() if count}
    total, slack = sum(live.values()), 1 / max(1, 2 * len(live) - 2)
    given = dict.fromkeys(live, 0)
    order = []
    for place in range(1, total + 1):
        lack = {task: count * place / total - given[task] for task, count in live.items()}
        due = {
            task: (1 - slack - lack[task]) / live[task]
            for task in live
            if lack[task] >= slack - 1e-9 and given[task] < live[task]
        }
        task = min(due, key=due.__getitem__) if due else max(lack, key=lack.__getitem__)
        given[task] += 1
        order.append(task)
    return order


def epoch(tasks: Sequence[str], share: Mapping[str, float], seed: int, number: int) -> list[int]:
    """Row numbers of an epoch in the order in which they are read.

    Each task's rows come in an endless sequence of shuffled passes: a small task repeats only
    when all of its rows were read, and a large one goes on in the next epoch where this one ends.

    Args:
        tasks: the task of every row; an epoch has as many rows.
        share: task -> share of an epoch, adding up to 1.
        number: of the epoch, from 0.
    """
    members: dict[str, list[int]] = {}
    for row, task in enumerate(tasks):
        members.setdefault(task, []).append(row)
    counts = quotas(share, len(tasks))
    draws = {
        task: iter(_stream(members[task], number * count, count, seed, task))
        for task, count in counts.items()
    }
    return [next(draws[task]) for task in interleaved(counts)]


def _stream(rows: Sequence[int], first: int, count: int, seed: int, task: str) -> list[int]:
    """`count` rows from place `first` on of the endless sequence of shuffled passes."""
    found = list[int]()
    for turn in range(first // len(rows), (first + count - 1) // len(rows) + 1):
        order = generator(seed, "mix", task, turn).permutation(len(rows))
        begin = max(0, first - turn * len(rows))
        found += [rows[i] for i in order[begin : first + count - turn * len(rows)]]
    return found
