"""How much of each task an epoch reads, and in which order: shares, counts, rows.

    proportional   p_i ∝ min(n_i, K)
    temperature    p_i ∝ min(n_i, K)^(1/τ)      τ = 1: proportional; large τ: uniform
    uniform        p_i ∝ 1
    fixed          p_i ∝ the weights given

Counts are whole: each task gets ⌊p_i · total⌋ rows, and what is left goes to the largest
remainders. Inside an epoch the tasks are interleaved so that after any number of rows each is
less than one row away from its share; a step of B rows thus holds p_i · B of each, to two rows.

Source: Raffel et al. 2020, arXiv:1910.10683, section 3.5.2 (cap and temperature); Tijdeman 1980,
"The chairman assignment problem" (the order).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from domainwright.core.errors import ConfigError
from domainwright.core.seeds import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class MixSettings:
    """How tasks share an epoch."""

    kind: Literal["proportional", "temperature", "uniform", "fixed"] = "proportional"
    cap: int | None = None
    """K: rows beyond this many do not raise a task's share. None: no cap."""
    temperature: float = 2.0
    """τ, at least 1."""
    weights: dict[str, float] = field(default_factory=dict)
    """Task -> weight, for `fixed`; they need not add up to 1."""

    def __post_init__(self) -> None:
        if self.cap is not None and self.cap < 1:
            raise ConfigError(f"mix.cap is {self.cap}.", "give a whole number from 1.")
        if not 1 <= self.temperature < math.inf:
            raise ConfigError(
                f"mix.temperature is {self.temperature}.",
                "give a number from 1; for equal shares set `kind: uniform`.",
            )
        if bool(self.weights) != (self.kind == "fixed"):
            raise ConfigError(
                f"mix.kind is {self.kind} and mix.weights names {len(self.weights)} tasks.",
                "set `kind: fixed` with a weight for every task, or leave `weights` out.",
            )
        bad = {task: w for task, w in self.weights.items() if not _positive(w)}
        if bad:
            task, weight = next(iter(bad.items()))
            raise ConfigError(f"mix.weights gives {task} {weight!r}.", "give a number above 0.")


def shares(sizes: Mapping[str, int], mix: MixSettings) -> dict[str, float]:
    """Task -> share of an epoch, adding up to 1.

    Args:
        sizes: task -> rows n_i, at least 1 each.

    Raises:
        ConfigError: fixed weights that do not name exactly these tasks.
    """
    if mix.kind == "fixed" and set(mix.weights) != set(sizes):
        raise ConfigError(
            f"mix.weights names {', '.join(sorted(mix.weights))}; the files' tasks are "
            f"{', '.join(sorted(sizes))}.",
            "give each task a weight; `task:` beside a file's `path:` names its task.",
        )
    exponent = {"temperature": 1 / mix.temperature, "uniform": 0.0}.get(mix.kind, 1.0)
    raw = {
        task: mix.weights.get(task) or min(size, mix.cap or size) ** exponent
        for task, size in sizes.items()
    }
    total = sum(raw.values())
    return {task: value / total for task, value in raw.items()}


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


def epoch(
    tasks: Sequence[str], mix: MixSettings, *, seed: int, number: int = 0, total: int | None = None
) -> list[int]:
    """Row numbers of an epoch in the order in which they are read.

    Each task's rows come in an endless sequence of shuffled passes: a small task repeats only
    when all of its rows were read, and a large one goes on in the next epoch where this one ends.

    Args:
        tasks: the task of every row.
        number: of the epoch, from 0.
        total: rows of an epoch. None: as many as there are.
    """
    members: dict[str, list[int]] = {}
    for row, task in enumerate(tasks):
        members.setdefault(task, []).append(row)
    sizes = {task: len(rows) for task, rows in members.items()}
    counts = quotas(shares(sizes, mix), len(tasks) if total is None else total)
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


def _positive(weight: object) -> bool:
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    return number and 0 < weight < math.inf  # type: ignore[operator]
