"""One row through the filters: repaired, dropped or left as it is, each step with its reason."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from domainwright.core.records import Row
from domainwright.curate._fields import parts
from domainwright.curate._languages import language
from domainwright.curate.filters import Change, Drop, Filter, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a row."""

    row: Row
    """As it is after the repairs."""
    changes: tuple[tuple[str, Change], ...]
    """(filter, change) in order."""
    dropped: tuple[str, Drop] | None
    """(filter, drop) of the first filter that refused it."""


class Judge:
    """The filters in order, ready to look at rows."""

    def __init__(self, filters: Sequence[tuple[str, Filter]], sample: Sample) -> None:
        self._looks = [(name, found.ready(sample)) for name, found in filters]

    def __call__(self, row: Row) -> Outcome:
        changes = list[tuple[str, Change]]()
        for name, look in self._looks:
            found = look(row)
            if isinstance(found, Drop):
                return Outcome(row=row, changes=tuple(changes), dropped=(name, found))
            if found is not None:
                changes.append((name, found))
                row = found.row
        return Outcome(row=row, changes=tuple(changes), dropped=None)


def bulk_language(rows: Sequence[Row]) -> str | None:
    """The language of most rows that tell theirs; None if no language has half of them."""
    found = Counter(language("\n".join(text for _, text in parts(row))) for row in rows)
    found.pop(None, None)
    if not found:
        return None
    name, count = found.most_common(1)[0]
    return name if 2 * count > found.total() else None
