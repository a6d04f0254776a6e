"""What `dw plan` predicts beside what a run then takes, each in a fresh process.

    python -m bench.plan_grid [--model smollm2-135m] [--steps 16] [--anyway]

Grid: tokens a pass x length of the documents x gradient checkpointing. The first process
probes and predicts; the second trains with those settings and measures. Goal: memory within
10 %, time within 20 %. One JSON line for the whole grid goes to bench/history.jsonl. Fewer steps
would hold less than a run does: every new length compiles products, and some are kept.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from bench._report import HERE, add_options, machine_facts, note, publish, refuse_when_busy

MICRO = (512, 1024, 2048)
LENGTHS = {"short": 120, "answers": 256, "long": 1000}
MEMORY, TIME = 0.10, 0.20
"""Largest errors wanted, as shares of what was measured."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro", default=",".join(map(str, MICRO)))
    parser.add_argument("--lengths", default=",".join(LENGTHS))
    parser.add_argument("--checkpointing", default="off,on")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    add_options(parser)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(part(json.loads(options.part))))
        return 0
    load = refuse_when_busy(options)
    found = []
    note("documents  tokens  checkpointing  MiB predicted, measured  seconds predicted, measured")
    for length, micro, checkpointing in product(
        options.lengths.split(","), options.micro.split(","), options.checkpointing.split(",")
    ):
        case = {
            "model": options.model, "steps": options.steps, "threads": options.threads,
            "length": length, "micro": int(micro), "checkpointing": checkpointing == "on",
        }  # fmt: skip
        predicted = _fresh({**case, "run": False})
        measured = _fresh({**case, "run": True})
        line = {
            **{k: case[k] for k in ("length", "micro", "checkpointing")},
            "predicted": predicted,
            "measured": measured,
            "memory_error": round(predicted["mib"] / measured["mib"] - 1, 3),
            "time_error": round(predicted["seconds"] / measured["seconds"] - 1, 3),
        }
        found.append(line)
        note(
            f"{length:<9} {micro:>7}  {checkpointing:<13}"
            f" {predicted['mib']:>6.0f} {measured['mib']:>6.0f} {line['memory_error']:>+7.1%}  "
            f" {predicted['seconds']:>7.1f} {measured['seconds']:>7.1f} {line['time_error']:>+7.1%}"
        )
    publish(
        {
            "bench": "plan_grid",
            "model": options.model,
            "steps": options.steps,
            "worst_memory_error": max((x["memory_error"] for x in found), key=abs),
            "worst_time_error": max((x["time_error"] for x in found), key=abs),
            "within": all(
                abs(x["memory_error"]) <= MEMORY and abs(x["time_error"]) <= TIME for x in found
            ),
            "grid": found,
            **machine_facts("torch", "transformers"),
            **load,
        }
    )
    return 0


def _fresh(case: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.plan_grid", "--part", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def part(case: dict[str, Any]) -> dict[str, float]:
    """One prediction, or one run."""
    import torch

    from domainwright.models.base import load_base
    from domainwright.studies._beginnings import build
    from domainwright.train.fit import Wish, fit
    from domainwright.train.loop import Job, train
    from domainwright.train.settings import TrainSettings

    torch.set_num_threads(case["threads"])
    base = load_base(case["model"])
    rows = _rows(base.template, LENGTHS[case["length"]])
    settings = TrainSettings(
        micro_tokens=case["micro"],
        gradient_checkpointing=case["checkpointing"],
        checks=1,
        max_forgetting=9.0,
    )
    wish = Wish(
        rows=rows[8:], watched=rows[:8], development=8, settings=settings, seed=0, memory_gb=None
    )
    if not case["run"]:
        found = fit(base, lambda: build(base, "lora", {}, 0), wish, case["steps"])
        return {"mib": found.peak_mib, "seconds": round(found.run_seconds, 2)}
    with tempfile.TemporaryDirectory() as folder:
        got = train(
            Job(
                base=base,
                adapter=build(base, "lora", {}, 0),
                rows=wish.rows,
                development=wish.watched,
                general=[],
                settings=settings,
                steps=case["steps"],
                learning_rate=2e-4,
                micro_tokens=case["micro"],
                seed=0,
                folder=Path(folder),
                run_hash="bench",
                recompute=case["checkpointing"],
            )
        )
    return {"mib": got.peak_rss_mib, "seconds": round(got.seconds, 2)}


def _rows(template: Any, length: int) -> list[Any]:
    """Pieces of real text, between half of `length` and `length` tokens long."""
    from bench._steps import EXAMPLES, PROFILES, SHARED
    from domainwright.core.seeds import generator
    from domainwright.curate.read import read
    from domainwright.models.forms import TrainRow

    shared, example, *_ = PROFILES["text"]
    file = SHARED / shared if (SHARED / shared).is_file() else EXAMPLES / example
    ids = [t for row in read(file).rows[:400] for t in template.tokens(getattr(row, "text", ""))]
    draw, rows, place = generator(0, "plan grid"), [], 0
    while len(rows) < 72:
        size = int(draw.integers(length // 2, length + 1))
        piece = [ids[(place + n) % len(ids)] for n in range(size)]
        rows.append(TrainRow(f"row-{len(rows)}", piece, [n >= size // 2 for n in range(size)]))
        place += size
    return rows


if __name__ == "__main__":
    sys.exit(main())
