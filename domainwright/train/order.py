"""Which documents an optimiser step reads, and in which passes."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from domainwright.core.seeds import generator
from domainwright.models.forms import TrainRow


def rows_of_step(rows: Sequence[TrainRow], batch: int, seed: int, step: int) -> list[TrainRow]:
    """Documents of a step: consecutive places in an endless sequence of shuffled epochs."""
    return _places(rows, step * batch, (step + 1) * batch, seed, "order")


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
    return _places(rows, first, last, seed, "replay")


def _places(
    rows: Sequence[TrainRow], first: int, last: int, seed: int, purpose: str
) -> list[TrainRow]:
    count = len(rows)
    chosen = []
    orders: dict[int, Any] = {}
    for place in range(first, last):
        epoch, position = divmod(place, count)
        if epoch not in orders:
            orders[epoch] = generator(seed, purpose, epoch).permutation(count)
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
