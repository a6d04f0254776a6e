"""Development rows in two halves: errors are looked at in one, acceptance is decided on the other.

Whoever chooses data by the errors of some rows and then counts the errors of the same rows will
see them fall, whatever the data. Groups, and groups tied by near-duplicates, stay whole; the draw
follows from the seed and the names of the groups, so every round has the same halves.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from domainwright.core.errors import DataError
from domainwright.core.records import Row
from domainwright.core.seeds import share


@dataclass(frozen=True, slots=True)
class Halves:
    looked_at: list[Row]
    held_out: list[Row]


def halves(rows: Sequence[Row], tied: Sequence[Sequence[str]], seed: int) -> Halves:
    """Both halves, each in the order of `rows`.

    Args:
        tied: groups that must stay together.

    Raises:
        DataError: all rows are of one group.
    """
    head = {name: min(names) for names in tied for name in names}
    blocks = defaultdict[str, list[Row]](list)
    for row in rows:
        blocks[head.get(row.group, row.group)].append(row)
    if len(blocks) < 2:
        raise DataError(
            f"The {len(rows)} development rows are of {len(blocks)} group, and refining needs two: "
            "one to look at, one to judge by.",
            "run the study again with a larger data.development_share, or with data.development.",
        )
    drawn = sorted(blocks, key=lambda name: share(seed, f"refine {name}"))
    looked_at = set[str]()
    taken = 0
    for name in drawn[:-1]:
        if taken and taken + len(blocks[name]) / 2 > len(rows) / 2:
            break
        looked_at.add(name)
        taken += len(blocks[name])
    sides: tuple[list[Row], list[Row]] = [], []
    for row in rows:
        sides[head.get(row.group, row.group) not in looked_at].append(row)
    return Halves(*sides)
