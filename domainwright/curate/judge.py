"""Rows through the filters: repaired, dropped or left as they are, each step with its reason."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from domainwright.core.records import Row
from domainwright.curate._fields import parts
from domainwright.curate._glance import Glancer, Glancing
from domainwright.curate._languages import language
from domainwright.curate.filters import Change, Drop, Filter, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a row."""

    row: Row
    """As it is after the repairs."""
    changes: tuple[tuple[str, Change], ...] = ()
    """(filter, change) in order."""
    dropped: tuple[str, Drop] | None = None
    """(filter, drop) of the first filter that refused it."""


class Judge:
    """The filters in order, ready to look at rows."""

    def __init__(self, filters: Sequence[tuple[str, Filter]], sample: Sample) -> None:
        self._looks = [(name, found.ready(sample)) for name, found in filters]
        self._glance = Glancer([look for _, look in self._looks if isinstance(look, Glancing)])

    def __call__(self, rows: Sequence[Row]) -> list[Outcome]:
        """What becomes of each row."""
        seen = self._glance(rows)
        if seen is None:
            return [self._outcome(row, range(len(self._looks))) for row in rows]
        needed_RK = np.ones((len(rows), len(self._looks)), dtype=bool)
        for number, (_, look) in enumerate(self._looks):
            if isinstance(look, Glancing):
                needed_RK[:, number] = ~look.clear(seen)
        outcomes = [Outcome(row=row) for row in rows]
        for place in np.flatnonzero(needed_RK.any(axis=1)).tolist():
            needed = np.flatnonzero(needed_RK[place]).tolist()
            outcomes[place] = self._outcome(rows[place], needed)
        return outcomes

    def _outcome(self, row: Row, needed: Sequence[int]) -> Outcome:
        """Args:
        needed: numbers of the filters that must look at the row as it is, in order.
        """
        changes = list[tuple[str, Change]]()
        waiting = list(needed)
        while waiting:
            number = waiting.pop(0)
            name, look = self._looks[number]
            found = look(row)
            if isinstance(found, Drop):
                return Outcome(row=row, changes=tuple(changes), dropped=(name, found))
            if found is not None:
                changes.append((name, found))
                row = found.row
                # This is not the row that was glanced at.
                waiting = list(range(number + 1, len(self._looks)))
        return Outcome(row=row, changes=tuple(changes))


def bulk_language(rows: Sequence[Row]) -> str | None:
    """The language of most rows that tell theirs; None if no language has half of them."""
    found = Counter(language("\n".join(text for _, text in parts(row))) for row in rows)
    found.pop(None, None)
    if not found:
        return None
    name, count = found.most_common(1)[0]
    return name if 2 * count > found.total() else None
