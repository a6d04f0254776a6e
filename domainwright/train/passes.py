"""Documents cut into passes and packed, once for everyone who reads them.

Packing depends on the documents, the size of a pass, and whether inputs are dropped: with
noise no row may stand for another. It does not depend on the adapter, so the candidates of a
study share it.
"""

from collections.abc import Sequence

from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.train.loss import Batch, batch_of
from domainwright.train.order import micro_batches


class Packing:
    """The passes over some documents."""

    def __init__(self, base: Base, rows: Sequence[TrainRow]) -> None:
        self.base, self.rows = base, rows
        self.targets = sum(row.targets for row in rows)
        self.tokens = sum(len(row.ids) for row in rows)
        self._made: dict[tuple[int, bool], list[Batch]] = {}

    def passes(self, limit: int) -> list[Batch]:
        """Passes of at most `limit` tokens, for what hangs on the base now."""
        key = limit, self.base.hooks.dropping
        if key not in self._made:
            self._made[key] = [
                batch_of(self.base, group) for group in micro_batches(self.rows, limit)
            ]
        return self._made[key]
