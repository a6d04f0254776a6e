"""What would change a verdict: the limits and sizes at which another strategy wins.

Volumes and prices stand with the costs: they hang on measured seconds, and a verdict that is
measured again must be the same.
"""

import math
from collections.abc import Sequence

from domainwright.maths.bootstrap import Interval
from domainwright.studies import _format as f
from domainwright.studies._limits import refusal
from domainwright.studies._names import GATED, is_gated
from domainwright.studies.judge import REFERENCE
from domainwright.studies.records import (
    ConstantAnswer,
    Difference,
    Recommendation,
    StrategyResult,
)

MOST = 20
"""Times the test set that is still worth proposing."""
FALL = 0.05
"""Share of the development loss that a last look has to be below the one before: less is what a
falling learning rate brings at the end of any run."""


def would_change(
    results: Sequence[StrategyResult],
    advice: Recommendation,
    *,
    score: str,
    tested: int,
    max_forgetting: float,
    constant: ConstantAnswer | None = None,
    whole: int | None = None,
    runs: float = 1.0,
) -> list[str]:
    """Sentences, the nearest change first of its kind; none where nothing is near.

    Args:
        whole: steps of the epochs asked for, where the budget may have allowed fewer.
        runs: trainings of the winner's length that the study made of a method.
    """
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
        leads: list[tuple[str, Interval | Difference]] = []
        if r.difference:
            leads.append(("the untouched base", r.difference))
        if constant and not constant.behind(REFERENCE):
            leads.append((constant.said, constant.leads[r.name]))
        for of, ahead in leads:
            needed = _items_needed(ahead, tested)
            if needed is not None:
                said.append(
                    f"{r.name} is ahead of {of} by {unit.size(abs(ahead.mean))}, which "
                    f"{f.count(tested)} test items cannot tell from luck; about "
                    f"{f.count(needed)} could."
                )
    return [*said, *_still_learning(done, whole, runs)]


def _still_learning(done: Sequence[StrategyResult], whole: int | None, runs: float) -> list[str]:
    """Strategies whose development loss fell to the last step of fewer than all."""
    said: dict[str, str] = {}
    for r in done:
        trained = r.training
        # A few rows of the epochs may have been left out: those runs were not cut short.
        if whole is None or trained is None or trained.steps > 0.9 * whole:
            continue
        looks = [x for x in trained.history if "development_loss" in x]
        if len(looks) < 2 or trained.best_step < trained.steps:
            continue
        before, last = (float(x["development_loss"]) for x in looks[-2:])
        if not last < (1 - FALL) * before:
            continue
        minutes = max(1, round((whole / trained.steps - 1) * trained.minutes * runs))
        time = f"{minutes} minutes" if minutes > 1 else "a minute"
        # Strategies that share an adapter are said once.
        said.setdefault(
            r.adapter or r.name,
            f"{r.name} was still learning when its {f.count(trained.steps)} steps were over "
            f"(development loss {before:.3f}, then {last:.3f}); the {f.count(whole)} of all "
            f"its epochs would take about {time} more of the budget.",
        )
    return list(said.values())


def _ahead(r: StrategyResult, chosen: StrategyResult) -> bool:
    return r.score is not None and chosen.score is not None and r.score.mean > chosen.score.mean


def _items_needed(ahead: Interval | Difference, tested: int) -> int | None:
    """Test items with which a lead of this size would be decided: intervals shrink as 1/sqrt(n).

    None: it is decided, no lead, or out of all proportion.
    """
    if ahead.mean <= 0 or ahead.low > 0:
        return None
    times = ((ahead.mean - ahead.low) / ahead.mean) ** 2
    needed = math.ceil(tested * times / 10) * 10
    return needed if tested < needed <= MOST * tested else None
