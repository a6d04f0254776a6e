"""How much of a score is memory, where training rows that give test rows away were kept?

    memory = mean gain over the reference on the test rows given away - the same on the others

The gain and not the score, because rows that stand twice in a file may be easier ones.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from domainwright.evaluate.records import Item
from domainwright.maths.bootstrap import Interval, apart, interval
from domainwright.studies._scores import means, scores, spread, weighed

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
    groups = np.array([item.group for item in asked])
    apart_of, clean_of = list(groups[there]), list(groups[~there])
    found = []
    for name in [name for name in items if name != reference]:
        away, clean = (
            [_values(list(compress(items[who], part))) for who in (name, reference)]
            for part in (there, ~there)
        )
        found.append(
            Inflation(
                strategy=name,
                given_away=int(there.sum()),
                score=interval(_values(items[name]), list(groups)),
                clean=interval(clean[0], clean_of),
                memory=apart(away[0] - away[1], clean[0] - clean[1], apart_of, clean_of),
            )
        )
    return found


def _values(items: Sequence[Item]) -> np.ndarray:
    """Of a part of the items as a test of its own."""
    own = weighed(items)
    return spread(means(scores(own)), own)
