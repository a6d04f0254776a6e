"""What every strategy costs and brings, from measured seconds and tokens and a price book.

    answering   c = 1000 · seconds / 3600 · machine_hour                    per thousand questions
                c = 1000 · (tokens in · input + tokens out · output) / 10⁶  with token prices
    once        F = training and indexing hours · machine_hour + rows used · label
    again       R = refreshes a year · (that machine time + rows used · refreshed · label)
    total       T = F + months / 12 · R + months · (storage + questions / 1000 · c)
    break-even  Q* = (F' difference) / (months · (c_b - c_a) / 1000)        questions a month
    benefit     B = months · questions · (score · right - (1 - score) · wrong) - T
                B = months · questions · mean of v(true label, label answered) - T
                B = months · questions · Σ share of a label · mean of v within it - T

The last where labels count alike and rare ones were asked first. v is `right` for the true label,
else minus the cost of that error in the price book.

F' is F with its refreshes and storage: all that does not grow with the questions. Every
figure follows from numbers that the report shows.

Source: methods.md §11.3.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import combinations

import numpy as np

from domainwright.maths.balanced import within
from domainwright.maths.bootstrap import Interval, interval
from domainwright.studies._choice import parts
from domainwright.studies._limits import refusal
from domainwright.studies.confusion import check_results
from domainwright.studies.prices import PriceSettings
from domainwright.studies.records import (
    Answered,
    BreakEven,
    Costs,
    Data,
    Sensitivity,
    StrategyCost,
    StrategyResult,
    Verdict,
)

SCALES = (0.5, 2.0)
"""What each price is multiplied by to see whether the order of the strategies depends on it."""
NEEDS_ROWS = "few_shot"
"""The prompting strategy that cannot do without labelled rows."""


def costs(
    results: Sequence[StrategyResult],
    prices: PriceSettings,
    data: Data,
    *,
    gigabytes: Mapping[str, float],
    max_forgetting: float = math.inf,
) -> Costs | None:
    """Costs of all measured strategies; None: none was measured.

    Args:
        gigabytes: what each strategy keeps on disk beside the base.
        max_forgetting: nats per token; a strategy above it, or above the limit of a task, has
            costs, but never comes first.
    """
    done = [r for r in results if r.status == "done" and r.seconds_per_answer is not None]
    if not done:
        return None

    refused = {r.name for r in done if refusal(r, max_forgetting)}

    def all_of(book: PriceSettings, *, spread: bool = False) -> list[StrategyCost]:
        return [_cost(r, book, data, gigabytes.get(r.name, 0.0), spread=spread) for r in done]

    found = all_of(prices, spread=True)
    first = _first(found, refused)
    varied = []
    for name in _scaled(prices):
        for scale in SCALES:
            other = all_of(replace(prices, **{name: scale * getattr(prices, name)}))
            leader = _first(other, refused)
            varied.append(
                Sensitivity(price=name, scale=scale, first=leader, changes=leader != first)
            )
    return Costs(
        prices=prices,
        strategies=found,
        break_evens=_break_evens([c for c in found if c.strategy not in refused], prices),
        sensitivity=varied,
        first=first,
        gigabytes=dict(gigabytes),
    )


def at_prices(verdict: Verdict, prices: PriceSettings) -> Verdict:
    """The verdict with its costs reckoned with another price book.

    Raises:
        ConfigError: the book has costs for labels that the test items do not have.
    """
    check_results(prices, verdict.strategies)
    stored = {} if verdict.costs is None else verdict.costs.gigabytes
    limit = verdict.max_forgetting
    found = costs(verdict.strategies, prices, verdict.data, gigabytes=stored, max_forgetting=limit)
    return replace(verdict, costs=found)


def _cost(
    r: StrategyResult, prices: PriceSettings, data: Data, gigabytes: float, *, spread: bool
) -> StrategyCost:
    """One strategy's costs.

    Args:
        spread: also draw the interval of what its errors cost; the order needs the mean alone.
    """
    assert r.seconds_per_answer is not None
    if prices.input_million is None or prices.output_million is None:
        thousand = 1000 * r.seconds_per_answer / 3600 * prices.machine_hour
    else:
        read, written = r.tokens_in or 0.0, r.tokens_out or 0.0
        thousand = (read * prices.input_million + written * prices.output_million) / 1000
    training = r.training.minutes * 60 if r.training else 0.0
    machine = (training + r.prepare_seconds) / 3600 * prices.machine_hour
    method, prompting = parts(r.name)
    labels = (data.train + data.development) * prices.label
    labels = labels if method or prompting == NEEDS_ROWS else 0.0
    refresh = machine + prices.refreshed * labels
    storage = gigabytes * prices.storage_gb_month
    total = (
        machine
        + labels
        + prices.months / 12 * prices.refreshes_year * refresh
        + prices.months * (storage + prices.questions_month / 1000 * thousand)
    )
    return StrategyCost(
        strategy=r.name,
        thousand=thousand,
        once=machine + labels,
        refresh=refresh,
        storage_month=storage,
        total=total,
        benefit=_benefit(r, prices, total, data.labels, spread=spread),
    )


def _benefit(
    r: StrategyResult,
    prices: PriceSettings,
    total: float,
    shares: Mapping[str, float],
    *,
    spread: bool,
) -> Interval | None:
    """What its answers are worth.

    Args:
        shares: label -> its share of all rows, where labels count alike in the score, which then
            says nothing of how many answers are right.
    """
    asked = prices.months * prices.questions_month
    if r.answered and (prices.errors or (shares and prices.right is not None)):
        value = _value(r.answered, prices, shares, spread=spread)
        return Interval(*(asked * x - total for x in (value.mean, value.low, value.high)))
    if r.score is None or prices.right is None:
        return None
    right, wrong = prices.right, prices.wrong
    return Interval(
        *(
            asked * (x * right - (1 - x) * wrong) - total
            for x in (r.score.mean, r.score.low, r.score.high)
        )
    )


def _value(
    answers: Sequence[Answered],
    prices: PriceSettings,
    shares: Mapping[str, float],
    *,
    spread: bool,
) -> Interval:
    """What an answer brings on average, whole groups drawn; of labels with shares, Σ share · mean
    within the label."""
    every = [x for x in answers for _ in range(x.items)]
    each = np.array([prices.value(x.true, x.answered) for x in every])
    if shares:
        labels = [x.true for x in every]
        asked = Counter(labels)
        # Labels that nobody was asked about have no mean: the others divide their share.
        there = sum(shares[label] for label in asked)
        each *= [len(every) * shares[label] / (there * asked[label]) for label in labels]
        each = within(each, labels)
    if spread:
        return interval(each, [x.group for x in every])
    mean = float(each.mean())
    return Interval(mean, mean, mean)


def _first(found: Sequence[StrategyCost], refused: set[str]) -> str:
    allowed = [c for c in found if c.strategy not in refused] or found
    return max(allowed, key=lambda c: c.benefit.mean if c.benefit else -c.total).strategy


def _scaled(prices: PriceSettings) -> list[str]:
    """Numbers of the book that are not 0: what another value of could change the order."""
    unit = ("currency", "months", "refreshed", "errors")
    return [f.name for f in fields(prices) if f.name not in unit and getattr(prices, f.name)]


def _break_evens(found: Sequence[StrategyCost], prices: PriceSettings) -> list[BreakEven]:
    """Pairs whose order depends on how much is asked."""

    def fixed(c: StrategyCost) -> float:
        return c.total - prices.months * prices.questions_month / 1000 * c.thousand

    pairs = []
    for one, other in combinations(found, 2):
        after, before = (one, other) if one.thousand < other.thousand else (other, one)
        more, saved = fixed(after) - fixed(before), before.thousand - after.thousand
        if more > 0 and saved > 0:
            questions = more / (prices.months * saved / 1000)
            pairs.append(
                BreakEven(before=before.strategy, after=after.strategy, questions_month=questions)
            )
    return sorted(pairs, key=lambda x: x.questions_month)
