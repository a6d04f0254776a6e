"""Which strategies another one makes superfluous: no worse in gain, forgetting and cost."""

import math

from domainwright.studies._facts import forgotten, measured, over_limit
from domainwright.studies.judge import REFERENCE
from domainwright.studies.records import StrategyResult, Verdict


def dominated(verdict: Verdict) -> dict[str, str]:
    """Strategy -> one that gains as much, forgets as little, costs as little, and wins in one.

    Means decide. What forgets more than the limit allows replaces nothing; a mean below no
    forgetting counts as none; where no costs were reckoned, gain and forgetting decide.
    """
    prices = {c.strategy: c.total for c in verdict.costs.strategies} if verdict.costs else {}

    def figures(r: StrategyResult) -> tuple[float, float, float]:
        """The lower, the better."""
        gain = r.difference.mean if r.difference else 0.0 if r.name == REFERENCE else math.nan
        lost = forgotten(r)
        forgot = math.nan if lost is None else max(0.0, lost)
        return -gain, forgot, prices.get(r.name, math.nan if prices else 0.0)

    known = {r.name: figures(r) for r in measured(verdict)}
    known = {name: x for name, x in known.items() if not any(map(math.isnan, x))}
    allowed = [r.name for r in measured(verdict) if r.name in known and not over_limit(verdict, r)]
    found = {}
    for name, mine in known.items():
        better = [
            other
            for other in allowed
            if known[other] != mine and all(a <= b for a, b in zip(known[other], mine, strict=True))
        ]
        if better:
            found[name] = min(better, key=lambda other: known[other])
    return found
