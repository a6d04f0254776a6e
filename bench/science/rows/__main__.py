"""Measure rows of the science bench on the small tier. `python -m bench.science.rows --rows S9,S10`

Prints a verdict a row and appends a JSON line to bench/science/results.jsonl.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.science.arms import Effort, Lab, lab, loss_of
from bench.science.rows import ROWS, Finding
from bench.science.t0 import Recipe
from bench.science.verdicts import verdict

RESULTS = Path(__file__).parents[1] / "results.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(name.upper() for name in ROWS.names()))
    parser.add_argument("--seeds", type=int, default=Effort().seeds)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    kinds = {name: ROWS.get(name.lower()) for name in options.rows.split(",")}
    here = lab(Recipe(), replace(Effort(), seeds=options.seeds))
    for name, kind in kinds.items():
        record = measured(here, name, kind)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{name}: {record['verdict']}, {record['seconds']:.0f} s")
        for criterion in record["criteria"]:
            print(f"    {criterion['words']}: {criterion['found']}, {criterion['met']}")
    return 0


def measured(here: Lab, name: str, kind: Any) -> dict[str, Any]:
    """The row's line."""
    begun = time.perf_counter()
    found: Finding = kind.measure(here)
    general = here.held_out("G")
    return {
        "claim": name,
        "verdict": verdict(found.criteria),
        "criteria": [asdict(c) for c in found.criteria],
        "figures": _plain(found.figures),
        "rates": {
            arm: {f"{rate:.3g}": _plain(loss) for rate, loss in losses.items()}
            for arm, losses in found.rates.items()
        },
        "curves": _plain(found.curves),
        "effort": asdict(here.effort),
        "recipe": here.world.recipe.hash,
        "base": {
            "general": _plain(loss_of(here.base, general.rows)),
            "floor": _plain(general.floor),
        },
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _plain(value: Any) -> Any:
    """Rounded, and None where it is no finite number."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return round(float(value), 5) if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
