"""What would change a verdict: the limits and sizes at which another strategy wins.

Volumes and prices stand with the costs: they hang on measured seconds, and a verdict that is
measured again must be the same.
"""

import math
from collections.abc import Sequence

from domainwright.studies import _format as f
from domainwright.studies._limits import refusal
from domainwright.studies._names import GATED, is_gated
from domainwright.studies.records import Recommendation, StrategyResult

MOST = 20
"""Times the test set that is still worth proposing."""


def would_change(
    results: Sequence[StrategyResult],
    advice: Recommendation,
    *,
    score: str,
    tested: int,
    max_forgetting: float,
) -> list[str]:
    """Sentences, the nearest change first of its kind; none where nothing is near."""
    unit = f.unit(score)
    done = [r for r in results if r.status == "done" and r.score is not None]
    chosen = next((r for r in done if r.name == advice.strategy), None)
    said = []
    for r in done:
        over = refusal(r, max_forgetting)
        better = chosen is None or _ahead(r, chosen)
        if over and better and r.score:
            said.append(
                f"With {over.remedy}, {r.name} ({unit.label} {unit.level(r.score.mean)}) would "
                "not be refused."
            )
            gated = f"{r.name}+{GATED}"
            if (
                r.training
                and not (is_gated(r.name) or r.adapters)
                and all(x.name != gated for x in results)
            ):
                said.append(
                    f"{gated} was not tried: it answers with the adapter only what belongs to the "
                    "domain, and with the untouched base everything else."
                )
    for r in done:
        needed = _items_needed(r, tested)
        if needed is not None and r.difference:
            said.append(
                f"{r.name} is ahead of the untouched base by {unit.size(abs(r.difference.mean))}, "
                f"which {f.count(tested)} test items cannot tell from luck; about "
                f"{f.count(needed)} could."
            )
    return said


def _ahead(r: StrategyResult, chosen: StrategyResult) -> bool:
    return r.score is not None and chosen.score is not None and r.score.mean > chosen.score.mean


def _items_needed(r: StrategyResult, tested: int) -> int | None:
    """Test items with which a lead of this size would be decided: intervals shrink as 1/sqrt(n).

    None: it is decided, no lead, or out of all proportion.
    """
    d = r.difference
    if d is None or d.mean <= 0 or d.low > 0:
        return None
    times = ((d.mean - d.low) / d.mean) ** 2
    needed = math.ceil(tested * times / 10) * 10
    return needed if tested < needed <= MOST * tested else None
