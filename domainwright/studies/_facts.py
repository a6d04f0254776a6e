"""What a reader draws from a verdict. Report, table and model card say it in the same words."""

import math
from typing import Literal

from domainwright.studies._format import count, unit
from domainwright.studies._limits import Over, refusal
from domainwright.studies.judge import REFERENCE
from domainwright.studies.records import Data, StrategyResult, Verdict

Decision = Literal["reference", "better", "worse", "not decided", "not after Holm"]
SHOWN = 4
"""Labels told in one sentence."""


def in_order(verdict: Verdict) -> list[StrategyResult]:
    """Measured strategies, best score first; then the failed; then the skipped."""
    place = {"done": 0, "failed": 1, "skipped": 2}
    return sorted(
        verdict.strategies,
        key=lambda r: (
            place[r.status],
            -r.score.mean if r.score and math.isfinite(r.score.mean) else math.inf,
        ),
    )


def measured(verdict: Verdict) -> list[StrategyResult]:
    """Strategies that answered the test items, best score first."""
    return [r for r in in_order(verdict) if r.status == "done" and r.score is not None]


def find(verdict: Verdict, name: str) -> StrategyResult | None:
    return next((r for r in verdict.strategies if r.name == name), None)


def decision(result: StrategyResult) -> Decision:
    """How a strategy stands against the untouched base.

    The interval decides; where it does but the p-value no longer holds once all comparisons
    of the study are counted (Holm), that is said.
    """
    d = result.difference
    if d is None:
        return "reference"
    # Not `low <= 0 <= high`: an interval of NaN decides nothing either.
    if not (d.low > 0 or d.high < 0):
        return "not decided"
    if d.p_holm >= 0.05:
        return "not after Holm"
    return "better" if d.mean > 0 else "worse"


def constant_answer(verdict: Verdict) -> str | None:
    """How the commonest answer does, where the untouched base is not significantly better.

    Elsewhere whatever beats the base beats it, too, and there is nothing to be said.
    """
    found = verdict.constant
    if found is None or found.behind(REFERENCE):
        return None
    return f"{found.said}: {unit(verdict.score).levels(found.score)}"


def by_label(verdict: Verdict) -> list[tuple[str, int, dict[str, int]]]:
    """(label, its items, strategy -> how many it told rightly), the rarest first; empty where
    labels do not count alike."""
    found: dict[str, tuple[int, dict[str, int]]] = {}
    for r in measured(verdict) if verdict.data.labels else []:
        for label in sorted({x.true for x in r.answered}):
            own = [x for x in r.answered if x.true == label]
            _, right = found.setdefault(label, (sum(x.items for x in own), {}))
            right[r.name] = sum(x.items for x in own if x.answered == label)
    return sorted(((k, n, right) for k, (n, right) in found.items()), key=lambda x: x[1])


def right_by_label(verdict: Verdict) -> str | None:
    """The same of the recommended strategy, in words."""
    name = verdict.recommendation.strategy
    told = [
        f"{count(right.get(name, 0))} of {count(n)} “{label}”"
        for label, n, right in by_label(verdict)
    ]
    if not told:
        return None
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return f"{name} is right in {', '.join(told[:SHOWN])}{more}"


def asked_items(data: Data) -> str:
    """What every strategy answered, in words.

    Without folds "120 test items", else "40 rows, each out of 5 folds".
    """
    if not data.folds:
        return f"{count(data.tested)} test items"
    return f"{count(data.tested)} rows, each left out in one of {data.folds} folds,"


def not_itself(data: Data, name: str) -> str:
    """That the adapter which is shipped did not answer the rows it is judged by."""
    return (
        f"The adapter of {name} was trained on all {count(data.train)} rows, so none of them could "
        "measure it: its score is that of models trained in the same way on the other folds' rows. "
        "What it forgets is measured on itself."
    )


def same_weights(result: StrategyResult) -> bool:
    """True where no weight was touched, so nothing can have been forgotten."""
    return result.kind == "prompting"


def forgotten(result: StrategyResult) -> float | None:
    """Nats per token lost on general text; None where it was not measured."""
    if same_weights(result):
        return 0.0
    return None if result.retention is None else result.retention.nats_change.mean


def over_limit(verdict: Verdict, result: StrategyResult) -> Over | None:
    """Why it may not be recommended; None: it may."""
    return refusal(result, verdict.max_forgetting)
