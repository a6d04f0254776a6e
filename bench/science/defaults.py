"""Does every method work by default? Its own rate on real rows of four domains, and others.

    python -m bench.science.defaults [--methods lora,prefix] [--minutes 30] [--small]

The same rows in the same order, STEPS steps of 8 on the embedded base, no replay; measured is the
loss on development rows, nats per token, before and after. In the first domain also at a third of
the method's rate and at three times it; with `--small` on the small world's base of a million
weights instead, its usual steps, from a ninth of that rate to 27 times it. A JSON line a run goes
to bench/science/defaults.jsonl, and what is there already is not run again: `--minutes` ends
early, the next call goes on. `python -m bench.science.defaults --page` writes docs/defaults.md.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.science.arms import SWEEP_SEED, Arm, Effort, Lab, course, lab, loss_of, run
from bench.science.forgetting import DATA, FILES, OURS, rows_of
from bench.science.t0 import Recipe
from domainwright.core.errors import CapabilityError, ConfigError, RunFailed
from domainwright.evaluate.retained import shipped_suite
from domainwright.methods import METHODS, usual_rate
from domainwright.models.base import Base, load_base
from domainwright.studies.tune import Wanted, tune

RESULTS = Path(__file__).parent / "defaults.jsonl"
PAGE = Path(__file__).parents[2] / "docs" / "defaults.md"
STEPS, DEVELOPMENT, WORDS = 12, 24, 60
FACTORS = (1 / 3, 1.0, 3.0)
SMALL, WIDE = "small world", (1 / 9, *FACTORS, 9.0, 27.0)
HEAD = """# Every method at its default settings

Each method trained {steps} steps of 8 short real rows of every domain (at most {words} words, the
same rows in the same order, no replay) on `smollm2-135m`. Development loss in nats per token: what
the default rate takes off in each domain, and in medicine also a third of it and three times it.
So short a run tells whether a default works and is of the right size, not which method is best:
their rates, sizes and aims differ.

`python -m bench.science.defaults`, then `--page`. {ended}

| method | rate | a third, medical | medical | three times, medical | legal | finance | science |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""

SMALL_HEAD = """
## A base of a million weights

The [small world](science.md), {steps} steps of 8 on its first domain, one seed of the sweeps; the
untouched base has {before} nats per token. `python -m bench.science.defaults --small`. Such a base
gets nine times the rate of the first table, and bases in between what lies between.

| method | rate above | a ninth | a third | that rate | three times | nine times | 27 times |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=",".join(METHODS.names()))
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(page(_known()), encoding="utf-8")
        return 0
    methods = options.methods.split(",")
    measured: Callable[[str, str, float], dict[str, Any]]
    if options.small:
        measured = partial(measure_small, lab(Recipe(), Effort()))
        runs = [(method, SMALL, factor) for method in methods for factor in WIDE]
    elif DATA.is_dir():
        measured, runs = partial(measure, load_base("smollm2-135m")), list(wanted(methods))
    else:
        print("skipped: there is no ../shared/data beside this checkout")
        return 0
    known, begun = {_key(line) for line in _known()}, time.monotonic()
    for method, domain, factor in runs:
        if (method, domain, round(factor, 3)) in known:
            continue
        if time.monotonic() - begun > 60 * options.minutes:
            print("more is to be run")
            return 0
        record = measured(method, domain, factor)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)
    return 0


def wanted(methods: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    """(method, domain, factor on the rate), the defaults of all methods first."""
    for domain in FILES:
        yield from ((method, domain, 1.0) for method in methods)
    first = next(iter(FILES))
    for factor in FACTORS:
        if factor != 1:
            yield from ((method, first, factor) for method in methods)


def measure(base: Base, method: str, domain: str, factor: float) -> dict[str, Any]:
    """One run's line; with why it failed, where it did."""
    rate = usual_rate(method, base.parameters) * factor
    rows = rows_of(domain, 0, WORDS)
    record: dict[str, Any] = {
        "method": method,
        "domain": domain,
        "factor": round(factor, 3),
        "rate": float(f"{rate:.3g}"),
        "steps": STEPS,
    }
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            tuned = tune(
                Wanted(
                    base=base,
                    method=method,
                    rows=rows[DEVELOPMENT:],
                    development=rows[:DEVELOPMENT],
                    general=shipped_suite().texts[:4],
                    settings=replace(OURS, replay=None, steps=STEPS, checks=1, learning_rate=rate),
                    method_settings={},
                    steps=STEPS,
                    seed=0,
                    folder=Path(folder),
                    parents={},
                )
            )
        except (CapabilityError, ConfigError, RunFailed) as error:
            return {**record, "failed": error.cause}
    looks = [x["development_loss"] for x in tuned.training.history if "development_loss" in x]
    losses = {"before": round(looks[0], 4), "after": round(looks[-1], 4)}
    return {**record, **losses, "seconds": round(time.perf_counter() - begun, 1)}


def measure_small(here: Lab, method: str, domain: str, factor: float) -> dict[str, Any]:
    """The same on the small world's first domain, in units of the rate for the embedded base."""
    rate = METHODS.get(method).learning_rate["small"] * factor
    plan = course(here, SWEEP_SEED)
    record: dict[str, Any] = {
        "method": method,
        "domain": domain,
        "factor": round(factor, 3),
        "rate": float(f"{rate:.3g}"),
        "steps": plan.steps,
        "before": round(loss_of(here.base, plan.watched), 4),
    }
    begun = time.perf_counter()
    try:
        ran = run(here, Arm(name=method, method=method), rate, SWEEP_SEED, plan)
    except (CapabilityError, ConfigError) as error:
        return {**record, "failed": error.cause.replace(here.base.source.name, "the base")}
    if ran is None:
        return {**record, "failed": "it diverged or learned nothing"}
    return {
        **record,
        "after": round(ran.end["domain"], 4),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """A line a method; what failed says why below."""
    newest = {_key(record): record for record in records}
    failed = {
        f"- {r['method']}: {r['failed']}": None
        for r in newest.values()
        if "failed" in r and (r["domain"] != SMALL or r["factor"] == 1)
    }
    first, *others = FILES
    places = [(first, round(f, 3)) for f in FACTORS] + [(d, 1.0) for d in others]
    own = [r for r in newest.values() if r["domain"] != SMALL]
    # What trains nothing on this base was refused, and is no run.
    working = {r["method"] for r in own if "after" in r}
    runs = [r for r in own if r["factor"] == 1 and r["method"] in working]
    better = sum("after" in r and r["after"] < r["before"] for r in runs)
    ended = f"At its default rate the loss fell in {better} of {len(runs)} runs."
    text = HEAD.format(steps=STEPS, words=WORDS, ended=ended) + _table(newest, places)
    small = [r for r in newest.values() if r["domain"] == SMALL]
    if small:
        text += SMALL_HEAD.format(steps=small[0]["steps"], before=f"{small[0]['before']:.2f}")
        text += _table(newest, [(SMALL, round(f, 3)) for f in WIDE])
    return text + (
        "\nNot run, or without a result:\n\n" + "\n".join(failed) + "\n" if failed else ""
    )


def _table(newest: Mapping[tuple, Mapping[str, Any]], places: Sequence[tuple[str, float]]) -> str:
    lines = []
    for method in sorted({m for m, d, _ in newest if d in {place for place, _ in places}}):
        own = {(d, f): r for (m, d, f), r in newest.items() if m == method}
        rate = next(r["rate"] / r["factor"] for r in own.values())
        cells = [_cell(own.get(place)) for place in places]
        lines.append(f"| `{method}` | {rate:.2g} | {' | '.join(cells)} |\n")
    return "".join(lines)


def _cell(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    return f"{record['before'] - record['after']:+.3f}" if "after" in record else "none"


def _known() -> list[dict[str, Any]]:
    if not RESULTS.is_file():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def _key(record: Mapping[str, Any]) -> tuple[str, str, float]:
    return record["method"], record["domain"], record["factor"]


if __name__ == "__main__":
    sys.exit(main())
