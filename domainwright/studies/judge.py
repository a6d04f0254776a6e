"""From marks to a verdict: paired statistics, and one sentence of advice."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from domainwright.evaluate.metrics import SCORES
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.retained import Change, Retained
from domainwright.maths.bootstrap import Interval, interval
from domainwright.maths.crossfit import crossfitted, deflated, widening
from domainwright.maths.significance import detectable_measured, holm, mcnemar, sign_flip
from domainwright.studies._format import fixed, unit
from domainwright.studies._limits import refusal
from domainwright.studies._scores import means, scores, spread
from domainwright.studies.entities import entity_scores
from domainwright.studies.records import (
    ConstantAnswer,
    Difference,
    Recommendation,
    Retention,
    StrategyResult,
)

REFERENCE = "zero_shot"
"""The strategy that all others are compared with."""
ALPHA = 0.05


def summarise(items: Sequence[Item]) -> dict[str, Any]:
    """The fields of a StrategyResult that follow from its marked items."""
    metrics = {name: float(np.mean([x.metrics[name] for x in items])) for name in items[0].metrics}
    tokens = sum(x.loss_tokens for x in items)
    if tokens:
        metrics["answer_loss"] = sum(x.loss or 0.0 for x in items) / tokens
    return {
        "score": score_of(items),
        "metrics": metrics,
        "entities": entity_scores(items),
        "parsed": float(np.mean([x.mark.parsed for x in items])),
        "tokens_in": float(np.mean([x.tokens_in for x in items])),
        "tokens_out": float(np.mean([x.tokens_out for x in items])),
        "seconds_per_answer": float(np.mean([x.seconds for x in items])),
    }


def score_of(items: Sequence[Item]) -> Interval:
    return _within(0.0, _interval(scores(items), items), items)


def lead(items: Sequence[Item], other: Sequence[Item]) -> Interval:
    """By how much `items` are better, paired item by item."""
    gap = _interval(scores(items) - scores(other), _in_folds(items, other))
    return _within(-1.0, gap, items, other)


def retention_record(now: Retained, change: Change) -> Retention:
    return Retention(
        bits_per_byte=now.bits_per_byte,
        accuracy=now.accuracy,
        nats_change=change.nats_per_token,
        bits_change=change.bits_per_byte,
        accuracy_change=change.accuracy,
        tasks=list(change.tasks),
    )


def compare(items: Mapping[str, Sequence[Item]]) -> dict[str, Difference]:
    """Every strategy against the reference, Holm-corrected over all of them."""
    if REFERENCE not in items:
        return {}
    reference = items[REFERENCE]
    groups = [x.group for x in reference]
    raw = {}
    for name, mine in items.items():
        if name == REFERENCE:
            continue
        assert [x.id for x in mine] == [x.id for x in reference], "strategies on different items"
        difference, folded = scores(mine) - scores(reference), _in_folds(mine, reference)
        raw[name] = Difference(
            **_ends(lead(mine, reference)),
            p=deflated(sign_flip(means(difference), groups), _widening(difference, folded)),
            p_holm=1.0,
            # Exact for one model that answers all items, and folds have several.
            mcnemar=None if folded[0].fold else _mcnemar(scores(reference), scores(mine)),
        )
    corrected = holm({name: d.p for name, d in raw.items()})
    return {name: replace(d, p_holm=corrected[name]) for name, d in raw.items()}


def recommend(
    results: Sequence[StrategyResult],
    items: Mapping[str, Sequence[Item]],
    *,
    score: str,
    max_forgetting: float,
    constant: ConstantAnswer | None = None,
) -> Recommendation:
    """The best strategy within the limits of what may be lost; among equals, the cheapest.

    None that is not significantly better than the commonest answer, too, has learned anything.
    Equal: the paired interval of the best minus it contains zero and, for written answers, the
    best is not surer of the references. Cheapest: fewest tokens
    per answer, untrained before trained.
    """
    done = [r for r in results if r.status == "done" and r.score is not None]
    refused = {r.name: over for r in done if (over := refusal(r, max_forgetting))}
    eligible = [r for r in done if r.name not in refused]
    reasons = [f"{name} is refused: {over.why}." for name, over in refused.items()]
    better = [r for r in eligible if _better(r)]
    if not better:
        tried = [r for r in done if r.name != REFERENCE]
        reasons.append(
            "No strategy is significantly better than the plain prompt after Holm's correction."
            if tried
            else "No other strategy could be measured."
        )
        return _keep(eligible, score, reasons)
    if constant:
        idle = [r for r in better if not constant.behind(r.name)]
        reasons += [_beside_constant(r.name, constant, score) for r in idle]
        if idle == better:
            return _keep(eligible, score, reasons, constant)
        eligible = [r for r in eligible if r not in idle]
        better = [r for r in better if r not in idle]
    best = max(better, key=lambda r: r.score.mean if r.score else -np.inf)
    equal, compared = _equals(best, eligible, items, score)
    reasons += compared
    winner = min([best, *equal], key=_cost)
    if winner is not best:
        reasons.append(
            f"{winner.name} is the cheaper: {_tokens(winner):.0f} tokens per answer "
            f"against {_tokens(best):.0f}."
        )
    if winner.name == REFERENCE:
        return _keep(eligible, score, reasons)
    return Recommendation(
        strategy=winner.name,
        reasons=reasons,
        sentence=_sentence(winner, done, score, max_forgetting),
    )


def _equals(
    best: StrategyResult,
    eligible: Sequence[StrategyResult],
    items: Mapping[str, Sequence[Item]],
    score: str,
) -> tuple[list[StrategyResult], list[str]]:
    """(strategies as good as the best, what every comparison showed)."""
    reasons: list[str] = []
    equal: list[StrategyResult] = []
    for other in eligible:
        if other is best:
            continue
        ahead = lead(items[best.name], items[other.name])
        if ahead.decided and ahead.mean > 0:
            reasons.append(f"{best.name} beats {other.name} by {unit(score).changes(ahead)}.")
        elif other.name == REFERENCE or _better(other):
            reasons.append(
                f"{best.name} and {other.name} cannot be told apart ({unit(score).changes(ahead)})."
            )
            surer = _surer(items[best.name], items[other.name], score)
            if surer is None:
                equal.append(other)
            else:
                reasons.append(
                    f"But {best.name} is surer of the right answers: its loss on them is lower by "
                    f"{surer.mean:.2f} [{surer.low:.2f}, {surer.high:.2f}] nats per token."
                )
        else:
            reasons.append(f"{other.name} is not significantly better than the plain prompt.")
    return equal, reasons


def _surer(best: Sequence[Item], other: Sequence[Item], score: str) -> Interval | None:
    """By how many nats per token `best` is surer of the references, if that is decided.

    A mark of a written answer counts words. It can miss that one strategy knows the facts and
    another only writes in their style; the loss on the reference does not.
    """
    if score not in SCORES:
        return None
    tokens_N = np.array([max(1, x.loss_tokens) for x in other])
    gap = _interval((_losses(other) - _losses(best)) / tokens_N, _in_folds(best, other))
    return gap if gap.decided and gap.mean > 0 else None


def _losses(items: Sequence[Item]) -> np.ndarray:
    """Summed loss of each item's reference: with new words it has fewer tokens."""
    return np.array([x.loss or 0.0 for x in items])


def _better(result: StrategyResult) -> bool:
    """Significantly better than the plain prompt, all comparisons counted."""
    d = result.difference
    return d is not None and d.p_holm < ALPHA and d.mean > 0


def _beside_constant(name: str, constant: ConstantAnswer, score: str) -> str:
    ahead = constant.leads[name]
    changes = unit(score).changes(ahead)
    if ahead.decided:
        return f"{name} is worse than {constant.said} ({changes})."
    return f"{name} and {constant.said} cannot be told apart ({changes})."


def _keep(
    eligible: Sequence[StrategyResult],
    score: str,
    reasons: list[str],
    constant: ConstantAnswer | None = None,
) -> Recommendation:
    """Nothing is significantly better, or, with `constant`, nothing is better than that."""
    plain = next(r for r in eligible if r.name == REFERENCE)
    than, level = "", _named(plain, score)
    if constant:
        of = unit(score)
        than = f" than {constant.said}"
        level = f"{of.label} {of.level(constant.score.mean)}; the base: {_score(plain, score)}"
    return Recommendation(
        strategy=plain.name,
        reasons=reasons,
        sentence=(
            f"Keep the untouched base with a plain prompt: no strategy is significantly better"
            f"{than} ({level})."
        ),
    )


def measured_detectable(items: Mapping[str, Sequence[Item]], best: str) -> float | None:
    """Smallest difference that this test set could show, from the spread it really had."""
    others = [name for name in items if name != REFERENCE]
    name = best if best != REFERENCE else (others[0] if others else None)
    if name is None or REFERENCE not in items:
        return None
    difference = means(scores(items[name]) - scores(items[REFERENCE]))
    difference = spread(difference, items[name])
    value = detectable_measured(difference, [x.group for x in items[name]])
    return None if np.isnan(value) else value * _widening(difference, items[name]) ** 0.5


def _sentence(
    winner: StrategyResult, done: Sequence[StrategyResult], score: str, limit: float
) -> str:
    text = f"Use {winner.name}: {_named(winner, score)}"
    plain = next((r for r in done if r.name == REFERENCE), None)
    if winner.difference and plain:
        text += (
            f" against {_score(plain, score)} for the untouched base "
            f"({unit(score).changes(winner.difference)}, 95 % interval)"
        )
    if winner.training and winner.retention:
        lost = winner.retention.nats_change.mean
        text += (
            f"; it forgets {lost:.3f} nats per token of general text (limit {limit})"
            if fixed(lost, 3, sign=True).startswith("+")
            else f"; it forgets nothing: {fixed(lost, 3)} nats per token on general text"
        )
    return text + "."


def _score(result: StrategyResult, score: str) -> str:
    assert result.score is not None
    return unit(score).level(result.score.mean)


def _named(result: StrategyResult, score: str) -> str:
    """The score with its name, said once: "token F1 0.44", "1.25 bits per byte"."""
    label, level = unit(score).label, _score(result, score)
    return level if label in level else f"{label} {level}"


def _tokens(result: StrategyResult) -> float:
    return (result.tokens_in or 0.0) + (result.tokens_out or 0.0)


def _cost(result: StrategyResult) -> tuple[float, bool]:
    return _tokens(result), result.training is not None


def pooled(runs: Sequence[Sequence[Item]]) -> list[Item]:
    """Items of several training seeds as one: means, the first run's reply, every run's mark."""
    if len(runs) == 1:
        return list(runs[0])
    found = []
    for same in zip(*runs, strict=True):
        first = same[0]
        marks = tuple(x.mark.correct for x in same)
        losses = [x.loss for x in same if x.loss is not None]
        found.append(
            replace(
                first,
                mark=Mark(float(np.mean(marks)), first.mark.parsed),
                marks=marks,
                metrics={k: float(np.mean([x.metrics[k] for x in same])) for k in first.metrics},
                loss=float(np.mean(losses)) if losses else None,
                tokens_in=round(np.mean([x.tokens_in for x in same])),
                tokens_out=round(np.mean([x.tokens_out for x in same])),
                seconds=float(np.mean([x.seconds for x in same])),
            )
        )
    return found


def _interval(values: np.ndarray, items: Sequence[Item]) -> Interval:
    """Of the mean; wider where the items were answered out of fold."""
    groups, values = [x.group for x in items], spread(values, items)
    if not items or not items[0].fold:
        return interval(values, groups)
    return crossfitted(values, groups, *_folds(items))


def _within(least: float, found: Interval, *marked: Sequence[Item]) -> Interval:
    """Widened for the folds, the interval of a high share would say that 101 % are right."""
    marks = np.array([x.mark.correct for items in marked for x in items])
    if not marks.size or marks.min() < 0 or marks.max() > 1:
        return found
    return replace(found, low=max(least, found.low), high=min(1.0, found.high))


def _widening(values: np.ndarray, items: Sequence[Item]) -> float:
    """Factor on the variance that a bootstrap of groups finds; 1 without folds."""
    if not items or not items[0].fold:
        return 1.0
    return widening(values, [x.group for x in items], *_folds(items))


def _in_folds(items: Sequence[Item], other: Sequence[Item]) -> Sequence[Item]:
    """Whichever of two strategies' items tell the folds: one that learns from no row has none."""
    return items if items and items[0].fold else other


def _folds(items: Sequence[Item]) -> tuple[list[int], int]:
    """(the fold of every item, folds of the study)."""
    told = [x.fold.split("/") for x in items]
    return [int(number) for number, _ in told], int(told[0][1])


def _ends(value: Interval) -> dict[str, float]:
    return {"mean": value.mean, "low": value.low, "high": value.high}


def _mcnemar(before: np.ndarray, after: np.ndarray) -> float | None:
    if after.ndim > 1 or not np.isin([before, after], [0.0, 1.0]).all():
        return None
    return mcnemar(int((before > after).sum()), int((after > before).sum()))
