"""What a race of candidates loses against training all of them: its regret, and its cost.

    python -m bench.science.regret [--studies 20] [--candidates 9] [--steps 144] [--workers 2]

Each study draws its own texts of a domain of the small world (`t0`). Every candidate that `auto`
would race (methods at three rates) is trained to its end on them, and its development losses are
noted at every rung; the race then sees exactly these. A candidate's regret is by how much its loss
at the end, on other texts, is above the best candidate's. The runs of a large field are raced
again in smaller ones, without its best methods and by lot. A worker is a process of one
thread, as a million weights gain little from two. One JSON line a run goes to
bench/science/regret.jsonl.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.science.arms import Effort, Lab, lab
from bench.science.t0 import DOMAINS, MICRO_TOKENS, Recipe, texts
from domainwright.core.errors import CapabilityError, RunFailed
from domainwright.core.seeds import derive, generator
from domainwright.methods import METHODS
from domainwright.models.base import Base
from domainwright.studies.records import Candidate
from domainwright.studies.search import FACTORS, FAMILIES, RUNGS, Losses, candidates, race, rungs_of
from domainwright.train import loop
from domainwright.train.job import Job
from domainwright.train.loss import losses_of_rows
from domainwright.train.settings import TrainSettings

RESULTS = Path(__file__).parent / "regret.jsonl"
WATCHED, JUDGED = 60, 400
"""Development rows that the race sees, and rows that its winner is judged on."""
NINE, LOTS = 9, 10
"""Candidates of a field drawn by lot out of a larger one, and how often it is drawn."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=9, choices=sorted(RUNGS))
    parser.add_argument("--steps", type=int, default=144)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    _lab()  # Trains the base where nobody has yet: the workers read it from the cache.
    begun, studies = time.perf_counter(), list[dict[str, Any]]()
    with ProcessPoolExecutor(
        options.workers, get_context("spawn"), torch.set_num_threads, (1,)
    ) as workers:
        asked = [
            workers.submit(study, seed, options.candidates, options.steps)
            for seed in range(options.studies)
        ]
        for done in as_completed(asked):
            studies.append(done.result())
            print(json.dumps(studies[-1]["races"][0]), flush=True)
    studies.sort(key=lambda x: x["seed"])
    record = {
        "candidates": options.candidates,
        "steps": options.steps,
        "fields": {
            name: _summed([x for s in studies for x in s["races"] if x["field"] == name])
            for name in dict.fromkeys(x["field"] for s in studies for x in s["races"])
        },
        "usual_rate_of_lora": _spread([x["lora"] for x in studies]),
        "studies": studies,
        "seconds": round(time.perf_counter() - begun),
    }
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps({k: v for k, v in record.items() if k != "studies"}))
    return 0


@cache
def _lab() -> Lab:
    return lab(Recipe(), Effort())


@cache
def _methods(base: Base) -> tuple[str, ...]:
    """The families that have anything to train in the base."""
    out = []
    for name in FAMILIES:
        kind = METHODS.get(name)
        try:
            kind.build(base, kind.Settings(), 0)
        except CapabilityError:
            continue
        out.append(name)
    return tuple(out)


def study(seed: int, count: int, steps: int) -> dict[str, Any]:
    """One race beside the exhaustive search over the same runs."""
    here = _lab()
    domain = DOMAINS[seed % len(DOMAINS)]
    language = here.world.languages[domain]
    rows = here.train_texts(domain, seed)
    watched = texts(here.world, language, "validation", WATCHED, seed=seed).rows
    judged = texts(here.world, language, "test", JUDGED, seed=seed).rows
    field = candidates(here.base, _methods(here.base), count, steps, here.effort.batch)
    rungs = rungs_of(count, steps)
    known: dict[str, dict[int, Losses]] = {}
    at_end: dict[str, np.ndarray] = {}
    for candidate in field:
        known[candidate.name] = {}
        try:
            at_end[candidate.name] = _trained(
                here, candidate, seed, rows, watched, judged, rungs, known[candidate.name]
            )
        except RunFailed:
            at_end[candidate.name] = np.full(len(judged), math.inf)
    return {
        "seed": seed,
        "domain": domain,
        "lora": round(float(at_end[field[0].name].mean() - _best(field, at_end)[1]), 5),
        "races": [
            {"field": name, **_raced(those, steps, known, at_end)}
            for name, those in _fields(field, at_end, seed)
        ],
    }


def _best(field: Sequence[Candidate], at_end: Mapping[str, np.ndarray]) -> tuple[Candidate, float]:
    ends = {c.name: float(at_end[c.name].mean()) for c in field}
    best = min(field, key=lambda c: ends[c.name])
    return best, ends[best.name]


def _fields(
    field: tuple[Candidate, ...], at_end: Mapping[str, np.ndarray], seed: int
) -> Iterator[tuple[str, tuple[Candidate, ...]]]:
    """The whole field; where it is large, harder ones of the same runs, too.

    Without the best method, without the best two and so on, as one method may be so far ahead
    that nobody could miss it; three methods by lot with all their rates, as the race of nine has
    them; and nine by lot, where a method may stand with a poor rate alone.
    """
    yield "whole", field
    left, out = field, 0
    while len(left) > NINE:
        ahead = _best(left, at_end)[0].method
        left, out = tuple(c for c in left if c.method != ahead), out + 1
        yield f"without the best {out}", left
    if len(field) > NINE:
        draw = generator(seed, "regret")
        methods = sorted({c.method for c in field})
        for _ in range(LOTS):
            few = draw.permutation(methods)[: NINE // len(FACTORS)]
            yield "three methods", tuple(c for c in field if c.method in few)
            yield "nine by lot", tuple(field[n] for n in draw.permutation(len(field))[:NINE])


def _raced(
    field: Sequence[Candidate],
    steps: int,
    known: Mapping[str, Mapping[int, Losses]],
    at_end: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """The race's winner beside the best of the field."""

    def advance(candidate: Candidate, until: int) -> Losses:
        if until not in known[candidate.name]:
            raise RunFailed("It failed.", "lower the rate.")
        return known[candidate.name][until]

    with TemporaryDirectory() as folder:
        found = race(field, steps, advance, Path(folder), {})
    winner, best = found.winner.name, _best(field, at_end)[0].name
    gap = at_end[winner] - at_end[best]
    ends = sorted(float(at_end[c.name].mean()) for c in field)
    return {
        "winner": winner,
        "best": best,
        "regret": round(float(gap.mean()), 5),
        "error": round(float(at_end[best].std(ddof=1)) / math.sqrt(len(gap)), 5),
        "paired_error": round(float(gap.std(ddof=1)) / math.sqrt(len(gap)), 5),
        "second": round(ends[1] - ends[0], 5),
        "runs": round(found.runs, 3),
    }


def _trained(
    here: Lab,
    candidate: Candidate,
    seed: int,
    rows: Sequence[Any],
    watched: Sequence[Any],
    judged: Sequence[Any],
    rungs: Sequence[int],
    known: dict[int, Losses],
) -> np.ndarray:
    """Nats per token of every judged row at the end; on the way, the losses at the rungs."""
    kind = METHODS.get(candidate.method)
    settings = TrainSettings(
        steps=rungs[-1],
        batch=here.effort.batch,
        checks=1,
        checkpoint_every=10**9,
        replay=None,
        max_forgetting=math.inf,
        learning_rate=candidate.learning_rate,
    )
    adapter = kind.build(here.base, kind.Settings(), seed)
    with TemporaryDirectory() as folder:
        job = Job(
            base=here.base,
            adapter=adapter,
            rows=rows,
            development=watched,
            general=watched[:4],
            settings=settings,
            steps=rungs[-1],
            learning_rate=candidate.learning_rate,
            micro_tokens=MICRO_TOKENS,
            seed=seed,
            folder=Path(folder),
            run_hash=str(derive(seed, candidate.name)),
        )
        for until in rungs:
            known[until] = loop.advance(job, until).losses
        with adapter.attached():
            losses = losses_of_rows(here.base, judged, MICRO_TOKENS)
    return np.array([loss / row.targets for loss, row in zip(losses, judged, strict=True)])


def _summed(races: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of all races of one kind of field."""
    return {
        "races": len(races),
        "within_one_error": sum(x["regret"] <= x["error"] for x in races),
        "best_found": sum(x["regret"] == 0 for x in races),
        **{k: _spread([x[k] for x in races]) for k in ("regret", "error", "second", "runs")},
    }


def _spread(values: Sequence[float]) -> list[float]:
    """Least, median and largest."""
    return [round(float(x), 5) for x in (min(values), np.median(values), max(values))]


if __name__ == "__main__":
    sys.exit(main())
