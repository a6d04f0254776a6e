"""Rows in memory through the filters of curation: repaired, set aside with a reason, told.

The way of `pipeline` for rows that a study has read already; nothing is written.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.records import Row, SetAside
from domainwright.curate._sketch import sketched
from domainwright.curate.content import content
from domainwright.curate.copies import Copy, copies, key_table
from domainwright.curate.filters import Sample
from domainwright.curate.judge import Judge, Outcome, bulk_language
from domainwright.curate.preset import chosen, preset

_SAMPLE_ROWS = 1_000
_TOLD_EVERY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What curation made of rows: rows in = rows + set aside."""

    rows: list[Row]
    set_aside: list[SetAside]
    changes: dict[str, int]
    """What -> rows that were changed and kept."""


class Cleaner:
    """The filters of a domain, ready for rows like `rows`.

    Args:
        domain: whose preset counts; None: the default filters.
        rows: what the data is like. The first to teach are spread over all of them.

    Raises:
        UnknownName: no such domain.
    """

    def __init__(self, domain: str | None, rows: Sequence[Row]) -> None:
        some = tuple(rows[:: max(1, -(-len(rows) // _SAMPLE_ROWS))])
        sample = Sample(rows=some, language=bulk_language(some))
        self._judge = Judge(chosen(preset(domain)), sample)

    def judged(self, rows: Sequence[Row], listen: Listener = quiet) -> Cleaned:
        """Every row on its own; copies among them stay."""
        return self._cleaned(rows, listen, copied=False)

    def cleaned(self, rows: Sequence[Row], listen: Listener = quiet) -> Cleaned:
        """Every row on its own, then without copies of earlier rows."""
        return self._cleaned(rows, listen, copied=True)

    def _cleaned(self, rows: Sequence[Row], listen: Listener, *, copied: bool) -> Cleaned:
        outcomes, aside = list[Outcome](), list[SetAside]()
        for begin in range(0, len(rows), _TOLD_EVERY):
            batch = rows[begin : begin + _TOLD_EVERY]
            for row, outcome in zip(batch, self._judge(batch), strict=True):
                if outcome.dropped is None:
                    outcomes.append(outcome)
                else:
                    _, drop = outcome.dropped
                    aside.append(SetAside.of(row, drop.reason, drop.detail))
            listen(Step("curate", begin + len(batch), len(rows)))
        kept = [outcome.row for outcome in outcomes]
        found: Mapping[int, Copy] = _copies(kept) if copied else {}
        aside += [SetAside.of(kept[n], *found[n].told(kept[found[n].of])) for n in found]
        changes = Counter(
            what
            for n, outcome in enumerate(outcomes)
            if n not in found
            for what in {change.what for _, change in outcome.changes}
        )
        return Cleaned(
            rows=[row for n, row in enumerate(kept) if n not in found],
            set_aside=aside,
            changes=dict(changes.most_common()),
        )


def _copies(rows: Sequence[Row]) -> Mapping[int, Copy]:
    """Row number -> the copy it is."""
    sketch = sketched([content(row) for row in rows])
    return copies(key_table(rows), sketch, rows.__getitem__)
