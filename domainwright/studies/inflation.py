"""How much of a score is memory, where training rows that give test rows away were kept?

    memory = mean gain over the reference on the test rows given away - the same on the others

The gain and not the score, because rows that stand twice in a file may be easier ones.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from domainwright.evaluate.records import Item
from domainwright.maths.bootstrap import Interval, apart, interval

FEWEST_ITEMS = 5
"""Of each side: with fewer nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inflation:
    """One strategy where test rows stand in the training rows."""

    strategy: str
    given_away: int
    """Test items that training rows give away."""
    score: Interval
    """On all test items."""
    clean: Interval
    """On those that no training row gives away."""
    memory: Interval
    """Gain over the reference on the items given away, less that on the others."""


def inflation(
    items: Mapping[str, Sequence[Item]], reference: str, given_away: Collection[str]
) -> list[Inflation]:
    """Every other strategy; nothing where too few test items are given away, or too few are not.

    Args:
        items: strategy -> its marked items, all in one order.
        given_away: ids of test rows.
    """
    asked = items.get(reference, [])
    there = np.array([item.id in given_away for item in asked], dtype=bool)
    if min(there.sum(), (~there).sum()) < FEWEST_ITEMS:
        return []
    groups, before = np.array([item.group for item in asked]), _scores(asked)
    found = []
    for name in [name for name in items if name != reference]:
        score = _scores(items[name])
        gain = score - before
        found.append(
            Inflation(
                strategy=name,
                given_away=int(there.sum()),
                score=interval(score, list(groups)),
                clean=interval(score[~there], list(groups[~there])),
                memory=apart(gain[there], gain[~there], list(groups[there]), list(groups[~there])),
            )
        )
    return found


def _scores(items: Sequence[Item]) -> np.ndarray:
    return np.array([item.mark.correct for item in items], dtype=float)
