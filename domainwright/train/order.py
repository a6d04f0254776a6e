"""Which documents an optimiser step reads, and in which passes."""

from collections.abc import Iterator, Sequence
from typing import Any

from domainwright.core.seeds import generator
from domainwright.models.forms import TrainRow


def rows_of_step(rows: Sequence[TrainRow], batch: int, seed: int, step: int) -> list[TrainRow]:
    """Documents of a step: consecutive places in an endless sequence of shuffled epochs."""
    count = len(rows)
    chosen = []
    orders: dict[int, Any] = {}
    for place in range(step * batch, (step + 1) * batch):
        epoch, position = divmod(place, count)
        if epoch not in orders:
            orders[epoch] = generator(seed, "order", epoch).permutation(count)
        chosen.append(rows[orders[epoch][position]])
    return chosen


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
