"""Did the made rows help? The same method without them, as many steps, the same development rows.

    gain = Σ loss without - Σ loss with, over all supervised tokens of the development rows

The interval is a paired bootstrap over groups of those rows. As many steps, not as many passes:
the question is what to spend the time on.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from domainwright.maths.bootstrap import Interval, interval
from domainwright.studies._format import loss_change

Losses = Sequence[tuple[str, float, float]]
"""(row, summed loss in nats, tokens)."""


def gain(without: Losses, with_made: Losses, groups: Mapping[str, str]) -> Interval:
    """What the made rows take off the loss, in nats per token.

    Args:
        groups: row -> group.
    """
    rows = [row for row, _, _ in without]
    assert rows == [row for row, _, _ in with_made], "runs watched on different rows"
    tokens = sum(count for _, _, count in without)
    saved_I = np.array(
        [before - after for (_, before, _), (_, after, _) in zip(without, with_made, strict=True)]
    )
    return interval(saved_I * len(rows) / tokens, [groups.get(row, row) for row in rows])


def advice(method: str, made: int, steps: int, found: Interval) -> str:
    """One sentence for the verdict."""
    run = f"{method}, {steps} steps with and without"
    if found.low > 0:
        return (
            f"The {made:,} made rows helped: they took {loss_change(found)} off the loss ({run})."
        )
    if found.high < 0:
        worse = Interval(-found.mean, -found.high, -found.low)
        return (
            f"The {made:,} made rows did harm: they put {loss_change(worse)} on the loss ({run})."
        )
    return (
        f"The {made:,} made rows changed nothing that these development rows can show: they took "
        f"{loss_change(found)} off the loss ({run})."
    )
