"""What a race of candidates loses against training all of them: its regret, and its cost.

    python -m bench.science.regret [--studies 20] [--candidates 9] [--steps 144]

Each study draws its own texts of a domain of the small world (`t0`). Every candidate that `auto`
would race (methods at three rates) is trained to its end on them, and its development losses are
noted at every rung; the race then sees exactly these. A candidate's regret is by how much its loss
at the end, on other texts, is above the best candidate's. One JSON line a run goes to
bench/science/regret.jsonl.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.science.arms import Effort, Lab, lab
from bench.science.t0 import DOMAINS, MICRO_TOKENS, Recipe, texts
from domainwright.core.errors import RunFailed
from domainwright.core.seeds import derive
from domainwright.methods import METHODS
from domainwright.studies.records import Candidate
from domainwright.studies.search import FAMILIES, RUNGS, Losses, candidates, race
from domainwright.train import loop
from domainwright.train.job import Job
from domainwright.train.loss import losses_of_rows
from domainwright.train.settings import TrainSettings

RESULTS = Path(__file__).parent / "regret.jsonl"
WATCHED, JUDGED = 60, 400
"""Development rows that the race sees, and rows that its winner is judged on."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=9, choices=sorted(RUNGS))
    parser.add_argument("--steps", type=int, default=144)
    options = parser.parse_args()
    here, begun, studies = lab(Recipe(), Effort()), time.perf_counter(), []
    for seed in range(options.studies):
        studies.append(study(here, seed, options.candidates, options.steps))
        print(json.dumps(studies[-1]), flush=True)
    record = {
        "candidates": options.candidates,
        "steps": options.steps,
        "within_one_error": sum(x["regret"] <= x["error"] for x in studies),
        "best_found": sum(x["regret"] == 0 for x in studies),
        "regret": _spread([x["regret"] for x in studies]),
        "error": _spread([x["error"] for x in studies]),
        "usual_rate_of_lora": _spread([x["lora"] for x in studies]),
        "runs": _spread([x["runs"] for x in studies]),
        "studies": studies,
        "seconds": round(time.perf_counter() - begun),
    }
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps({k: v for k, v in record.items() if k != "studies"}))
    return 0


def study(here: Lab, seed: int, count: int, steps: int) -> dict[str, Any]:
    """One race beside the exhaustive search over the same runs."""
    domain = DOMAINS[seed % len(DOMAINS)]
    language = here.world.languages[domain]
    rows = here.train_texts(domain, seed)
    watched = texts(here.world, language, "validation", WATCHED, seed=seed).rows
    judged = texts(here.world, language, "test", JUDGED, seed=seed).rows
    field = candidates(here.base, FAMILIES, count, steps, here.effort.batch)
    rungs = [max(1, round(steps * share)) for share in RUNGS[count]]
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

    def advance(candidate: Candidate, until: int) -> Losses:
        if until not in known[candidate.name]:
            raise RunFailed("It failed.", "lower the rate.")
        return known[candidate.name][until]

    with TemporaryDirectory() as folder:
        found = race(field, steps, advance, Path(folder), {})
    ends = {name: float(values.mean()) for name, values in at_end.items()}
    best = min(ends, key=ends.__getitem__)
    winner = found.winner.name
    error = at_end[best].std(ddof=1) / math.sqrt(len(judged))
    paired = (at_end[winner] - at_end[best]).std(ddof=1) / math.sqrt(len(judged))
    return {
        "seed": seed,
        "domain": domain,
        "winner": winner,
        "best": best,
        "regret": round(ends[winner] - ends[best], 5),
        "error": round(float(error), 5),
        "paired_error": round(float(paired), 5),
        "worst": round(max(x for x in ends.values() if math.isfinite(x)) - ends[best], 4),
        "lora": round(ends[field[0].name] - ends[best], 5),
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


def _spread(values: Sequence[float]) -> list[float]:
    """Least, median and largest."""
    return [round(float(x), 5) for x in (min(values), np.median(values), max(values))]


if __name__ == "__main__":
    sys.exit(main())
