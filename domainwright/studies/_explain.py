"""What would change a verdict: the limits, sizes and volumes at which another strategy wins."""

import math
from collections.abc import Sequence

from domainwright.studies import _format as f
from domainwright.studies.records import Costs, Recommendation, StrategyResult

MOST = 20
"""Times the test set that is still worth proposing."""


def would_change(
    results: Sequence[StrategyResult],
    advice: Recommendation,
    *,
    score: str,
    tested: int,
    max_forgetting: float,
    costs: Costs | None,
) -> list[str]:
    """Sentences, the nearest change first of its kind; none where nothing is near."""
    unit = f.unit(score)
    done = [r for r in results if r.status == "done" and r.score is not None]
    chosen = next((r for r in done if r.name == advice.strategy), None)
    said = []
    for r in done:
        lost = r.retention.nats_change.mean if r.retention else 0.0
        better = chosen is None or _ahead(r, chosen)
        if lost > max_forgetting and better and r.score:
            said.append(
                f"With a limit of {f.fixed(math.ceil(100 * lost) / 100, 2)} nats per token or more "
                f"for forgetting, {r.name} ({unit.label} {unit.level(r.score.mean)}) would not be "
                "refused."
            )
    for r in done:
        needed = _items_needed(r, tested)
        if needed is not None and r.difference:
            said.append(
                f"{r.name} is ahead of the untouched base by {unit.size(abs(r.difference.mean))}, "
                f"which {f.count(tested)} test items cannot tell from luck; about "
                f"{f.count(needed)} could."
            )
    equal = {r.name for r in done if chosen is not None and _reaches(r, chosen)}
    for turn in costs.break_evens if costs else []:
        pair = {turn.before, turn.after}
        if advice.strategy in pair and pair <= equal:
            cheaper, volume = turn.after, f.count(turn.questions_month)
            other = turn.before
            said.append(
                f"From {volume} questions a month on {cheaper} is cheaper than {other}; below, "
                f"{other} is."
            )
    return said


def _ahead(r: StrategyResult, chosen: StrategyResult) -> bool:
    return r.score is not None and chosen.score is not None and r.score.mean > chosen.score.mean


def _reaches(r: StrategyResult, chosen: StrategyResult) -> bool:
    """Whether its interval reaches the chosen one's score: a cheaper but worse one is no choice."""
    return r is chosen or (
        r.score is not None and chosen.score is not None and r.score.high >= chosen.score.mean
    )


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
