"""Documents cut into passes and packed, once for everyone who reads them.

Packing depends on the documents, the size of a pass, and whether inputs are dropped: with
noise no row may stand for another. It does not depend on the adapter, so the candidates of a
study share it.
"""

from collections.abc import Iterator, Sequence

from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.train.loss import Batch, batch_of, batches_of
from domainwright.train.order import micro_batches, passes_of
from domainwright.train.shaped import Shaped, shaped_batch, weights_of


class Packing:
    """The passes over some documents."""

    def __init__(self, base: Base, rows: Sequence[TrainRow]) -> None:
        self.base, self.rows = base, rows
        self.targets = sum(row.targets for row in rows)
        self.tokens = sum(len(row.ids) for row in rows)
        self.labelled = any(row.labels is not None for row in rows)
        self._made: dict[tuple[int, bool], list[Batch]] = {}
        self._by_task: dict[str, Packing] = {}

    def by_task(self) -> "dict[str, Packing]":
        """The documents of every task for themselves, in alphabetical order."""
        if not self._by_task:
            for task in sorted({row.task for row in self.rows}):
                own = [row for row in self.rows if row.task == task]
                self._by_task[task] = Packing(self.base, own)
        return self._by_task

    def passes(self, limit: int, *, apart: bool = False) -> list[Batch]:
        """Passes of at most `limit` tokens, for what hangs on the base now.

        Args:
            apart: no row's beginning may stand for another's.
        """
        key = limit, apart or self.base.hooks.dropping
        if key not in self._made:
            how = {"apart": True} if apart else {}
            groups = micro_batches(self.rows, limit)
            self._made[key] = [batch_of(self.base, group, **how) for group in groups]
        return self._made[key]

    def passes_with(self, other: "Packing", limit: int) -> list[list[tuple[int, Batch]]]:
        """Passes over these documents (0) and others (1); the batches of a pass share one flat."""
        made = []
        for groups in passes_of(self.rows, other.rows, limit):
            there = [n for n, group in enumerate(groups) if group]
            batches = batches_of(
                self.base, [groups[n] for n in there], apart=self.base.hooks.dropping
            )
            made.append(list(zip(there, batches, strict=True)))
        return made

    def shaped(
        self, limit: int, copies: int, prompt_weight: float, *, apart: bool
    ) -> Iterator[Shaped]:
        """The same for a loss of another shape, every row `copies` times in one pass."""
        for group in micro_batches(self.rows, limit // copies):
            yield shaped_batch(self.base, group, copies, prompt_weight, apart=apart)

    def weight(self, prompt_weight: float) -> float:
        """How much all targets count together."""
        return sum(sum(weights_of(row, prompt_weight)) for row in self.rows)
