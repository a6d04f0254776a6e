"""`report.html`: one file that a manager reads and an engineer checks.

It asks the network for nothing, works without scripts, on a phone, in the dark and on
paper. Whatever came from users, files or models is escaped; a content policy in the page
also forbids every request and every script but the one that opens the folds for printing.
"""

import base64
import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment
from markupsafe import Markup

from domainwright.core.artifacts import write_atomic
from domainwright.curate.pages import environment
from domainwright.evaluate.kept import TaskKept
from domainwright.studies import _facts, _format
from domainwright.studies._charts import forest
from domainwright.studies._curves import by_rows, by_stage, curves
from domainwright.studies._maps import maps
from domainwright.studies._pareto import dominated
from domainwright.studies._svg import MARKS
from domainwright.studies.coherence import loops
from domainwright.studies.judge import REFERENCE
from domainwright.studies.records import Candidate, Data, Source, StrategyResult, Verdict

OPEN_TO_PRINT = (
    "addEventListener('beforeprint',function(){"
    "document.querySelectorAll('details').forEach(function(d){d.open=true})})"
)
"""Style sheets cannot open a fold in every browser."""

LONG = 600
"""A reply of more characters is folded after the first of them."""


def write_report(verdict: Verdict, path: Path) -> None:
    """Write the report of a study, all at once."""
    write_atomic(path, render(verdict))


def render(verdict: Verdict) -> str:
    """The page as text."""
    digest = base64.b64encode(hashlib.sha256(OPEN_TO_PRINT.encode()).digest()).decode()
    results = _facts.measured(verdict)
    order = {r.name: n for n, r in enumerate(results)}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            v=verdict,
            f=_format,
            facts=_facts,
            marks=MARKS,
            long=LONG,
            loops=loops,
            unit=_format.unit(verdict.score),
            results=results,
            decisions={_facts.decision(x) for x in results},
            kept=_kept(results),
            absent=[r for r in _facts.in_order(verdict) if r not in results],
            best=next((r for r in results if r.name == verdict.recommendation.strategy), None),
            reference=next((r for r in results if r.name == REFERENCE), None),
            created=_date(verdict.created),
            measures=list(dict.fromkeys(m for r in results for m in r.metrics)),
            forest=forest(verdict),
            maps=maps(verdict),
            dominated=dominated(verdict),
            curves=curves(verdict),
            by_rows=by_rows,
            by_stage=by_stage,
            bars=_bars(results),
            raced=_raced(verdict),
            shown_prices=_shown(verdict),
            answered=_answered(verdict),
            ranked=lambda replies: sorted(replies, key=lambda x: order.get(x.strategy, len(order))),
            sources=[Count(s) for s in verdict.data.sources],
            flow=_flow(verdict.data),
            study=_yaml(verdict.study),
            script=Markup(OPEN_TO_PRINT),
            script_hash=digest,
        )
    )


def _environment() -> Environment:
    made = environment(Path(__file__).parent)
    made.filters |= {"n": _format.typeset, "prose": _format.prose, "breaks": _breaks}
    return made


def _breaks(name: str) -> Markup:
    """The name, escaped, with places where a line may break."""
    return Markup("<wbr>").join(re.split(r"(?<=[+_])", name))


@dataclass(frozen=True, slots=True)
class Count:
    """The rows of one source file, which have to add up."""

    source: Source

    @property
    def set_aside(self) -> int:
        return sum(self.source.set_aside.values())

    @property
    def missing(self) -> int:
        """Records neither kept nor set aside. Anything but 0 is a fault, and is shown as one."""
        return self.source.records - self.source.kept - self.set_aside


def _kept(results: list[StrategyResult]) -> list[tuple[StrategyResult, TaskKept]]:
    """Tasks of lm-eval, each with what every trained strategy kept of it."""
    pairs = [
        (r, task)
        for r in results
        if r.retention and not _facts.same_weights(r)
        for task in r.retention.tasks
    ]
    places = list(dict.fromkeys(task.name for _, task in pairs))
    return sorted(pairs, key=lambda pair: places.index(pair[1].name))


def _raced(verdict: Verdict) -> list[Candidate]:
    """The winner, then who came furthest with the lowest loss."""
    if verdict.search is None:
        return []
    return sorted(
        verdict.search.candidates,
        key=lambda c: (c.decision != "chosen", -c.steps, math.inf if c.loss is None else c.loss),
    )


def _shown(verdict: Verdict) -> dict[str, Any]:
    """The price book without what was left open."""
    if verdict.costs is None:
        return {}
    book = asdict(verdict.costs.prices)
    book |= {
        f"{true} answered {other}": cost
        for true, row in book.pop("errors").items()
        for other, cost in row.items()
    }
    return {k: f"{v:g}" if isinstance(v, float) else v for k, v in book.items() if v is not None}


def _answered(verdict: Verdict) -> list[tuple[str, str, dict[str, int]]]:
    """(true label, label answered, strategy -> items), the groups of each taken together."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for r in _facts.measured(verdict):
        for x in r.answered:
            row = found.setdefault((x.true, x.answered), {})
            row[r.name] = row.get(r.name, 0) + x.items
    return [(*pair, row) for pair, row in sorted(found.items())]


@dataclass(frozen=True, slots=True)
class Flow:
    """From the kept rows of the question files to the splits."""

    kept: int
    split: int

    @property
    def later(self) -> int:
        """Rows taken out between reading and splitting: leaks, near-duplicates."""
        return self.kept - self.split


def _flow(data: Data) -> Flow:
    kept = sum(s.kept for s in data.sources if s.role != "documents")
    return Flow(kept, data.train + data.development + data.test)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the cost block, as percentages of the longest."""

    result: StrategyResult
    first: float
    second: float
    words: str


@dataclass(frozen=True, slots=True)
class Bars:
    title: str
    bars: list[Bar]


def _bars(results: list[StrategyResult]) -> list[Bars]:
    def chart(title: str, values: list[tuple[StrategyResult, float, float, str]]) -> Bars:
        longest = max((a + b for _, a, b, _ in values), default=0) or 1
        return Bars(
            title,
            [Bar(r, 100 * a / longest, 100 * b / longest, words) for r, a, b, words in values],
        )

    charts = [
        chart(
            "Seconds per answer",
            [
                (r, r.seconds_per_answer, 0, _format.seconds(r.seconds_per_answer))
                for r in results
                if r.seconds_per_answer is not None
            ],
        ),
        chart(
            "Tokens per answer, read + written",
            [
                (
                    r,
                    r.tokens_in,
                    r.tokens_out or 0,
                    f"{_format.tokens(r.tokens_in)} + {_format.tokens(r.tokens_out)}",
                )
                for r in results
                if r.tokens_in is not None
            ],
        ),
        chart(
            "Minutes of training",
            [
                (r, r.training.minutes, 0, _format.minutes(r.training.minutes))
                for r in results
                if r.training is not None
            ],
        ),
    ]
    return [c for c in charts if c.bars]


def _date(created: str) -> str:
    """As people write a date; as it stands where it is none."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _yaml(study: dict[str, Any]) -> str:
    # Through JSON first: a resolved study may hold tuples and paths, which YAML would tag.
    plain = json.loads(json.dumps(study, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=88)
