"""How often a study trains each method, and what the plan says of it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from domainwright.studies.data import StudyData

MOST_SEEDS = 3
"""Of folds, where the study leaves them open."""


def trainings(seeds: int, folds: int) -> int:
    """Trainings of one method: with folds one more, on all rows, which is shipped.

    >>> trainings(3, 0), trainings(1, 5), trainings(2, 5)
    (3, 6, 11)
    """
    return seeds * folds + 1 if folds else seeds


def affordable_seeds(seconds: float, takes: Callable[[int], float]) -> int:
    """The most seeds, at most `MOST_SEEDS` and at least one, that the time is enough for.

    >>> affordable_seeds(10.0, lambda seeds: 4.0 * seeds)
    2
    """
    return max((n for n in range(1, MOST_SEEDS + 1) if takes(n) <= seconds), default=1)


def told_of_folds(
    data: "StudyData", seeds: int, methods: Sequence[str], searches: bool
) -> list[str]:
    """What the plan and the verdict say of the folds; nothing without any.

    Args:
        methods: that are trained.
        searches: whether the study leaves the method open.
    """
    folds, rows = len(data.folds), data.to_ask
    if not folds:
        return []
    said = f"{len(rows)} rows in {len({row.group for row in rows})} groups stand in {folds} folds"
    if not methods:
        return [f"{said}, and each is asked with examples from the others alone."]
    times = f" with {seeds} seeds" if seeds > 1 else ""
    found = [
        f"{said}. Each method is trained {trainings(seeds, folds)} times: for every fold{times} on "
        "the others, and once on all rows."
    ]
    if searches:
        found.append("No search: rows this few cannot choose a method and test it, too.")
    return found
