"""Which documents an optimiser step reads, and in which passes."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from domainwright.core.seeds import generator
from domainwright.maths import quotas
from domainwright.models.forms import TrainRow


class Order:
    """Which documents every step reads: consecutive places in an endless sequence of epochs.

    An epoch is all documents shuffled, or, with shares, as many documents by the shares of their
    tasks, interleaved (`maths.quotas`): every step holds its share of each task, to two documents.

    Args:
        shares: task, or label of rows that have one, -> share of an epoch. One that is not named
            has the share of its number, and those that are named divide the rest as they would
            all. None: all are shuffled together.
    """

    def __init__(
        self,
        rows: Sequence[TrainRow],
        batch: int,
        seed: int,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self.rows, self.batch, self.seed = rows, batch, seed
        self.shares = completed(shares, Counter(map(_kind, rows))) if shares else {}
        self._epoch: tuple[int, Sequence[int]] = (-1, ())

    def step(self, number: int) -> list[TrainRow]:
        """The documents of a step, from 0."""
        chosen, count = [], len(self.rows)
        for place in range(number * self.batch, (number + 1) * self.batch):
            epoch, position = divmod(place, count)
            if epoch != self._epoch[0]:
                self._epoch = epoch, self._drawn(epoch)
            chosen.append(self.rows[self._epoch[1][position]])
        return chosen

    def _drawn(self, epoch: int) -> Sequence[int]:
        if self.shares:
            return quotas.epoch(list(map(_kind, self.rows)), self.shares, self.seed, epoch)
        drawn: list[int] = generator(self.seed, "order", epoch).permutation(len(self.rows)).tolist()
        return drawn


def _kind(row: TrainRow) -> str:
    return row.label or row.task


def completed(shares: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    """Task -> share of an epoch for exactly the tasks of `sizes`, adding up to 1.

    >>> completed({"a": 0.75, "b": 0.25}, {"a": 5, "b": 3, "new": 8})
    {'a': 0.375, 'b': 0.125, 'new': 0.5}
    """
    others = {task: n / sum(sizes.values()) for task, n in sizes.items() if task not in shares}
    there = {task: shares[task] for task in sizes if task in shares}
    rest = (1 - sum(others.values())) / (sum(there.values()) or 1.0)
    return {task: share * rest for task, share in there.items()} | others


def replayed_in_step(
    rows: Sequence[TrainRow], batch: int, share: float, seed: int, step: int
) -> list[TrainRow]:
    """General documents that a step reads beside its own `batch`, in an order of their own.

        up to step t   ⌊ t · batch · share / (1 - share) + ½ ⌋

    so that after any number of steps they are `share` of all documents, to one half.
    """
    if not rows:
        return []
    each = batch * share / (1 - share)
    first, last = (math.floor(each * t + 0.5) for t in (step, step + 1))
    chosen, orders = [], dict[int, Any]()
    for place in range(first, last):
        epoch, position = divmod(place, len(rows))
        if epoch not in orders:
            orders[epoch] = generator(seed, "replay", epoch).permutation(len(rows))
        chosen.append(rows[orders[epoch][position]])
    return chosen


def passes_of(
    rows: Sequence[TrainRow], general: Sequence[TrainRow], limit: int
) -> list[tuple[list[TrainRow], list[TrainRow]]]:
    """(own documents, general ones) of every pass over the documents of a step.

    The first general ones are read with the last own ones where the limit leaves room.
    """
    own, more = list(micro_batches(rows, limit)), list(micro_batches(general, limit))
    passes = [(group, list[TrainRow]()) for group in own]
    if own and more and tokens_of(own[-1]) + tokens_of(more[0]) <= limit:
        passes[-1] = own[-1], more.pop(0)
    return passes + [([], group) for group in more]


def tokens_of(rows: Sequence[TrainRow]) -> int:
    return sum(len(row.ids) for row in rows)


def micro_batches(rows: Sequence[TrainRow], limit: int) -> Iterator[list[TrainRow]]:
    """The rows in order, in passes of at most `limit` tokens; a longer document goes alone."""
    group: list[TrainRow] = []
    tokens = 0
    for row in rows:
        if group and tokens + len(row.ids) > limit:
            yield group
            group, tokens = [], 0
        group.append(row)
        tokens += len(row.ids)
    if group:
        yield group
