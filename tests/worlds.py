"""Planted worlds on the embedded base: how often the verdict is the planted one.

    python -m tests.worlds [--worlds changing,noise] [--seeds 20] [--first 0] [--keep FOLDER]
    python -m tests.worlds --page        docs/worlds.md from the record, running nothing

A study is a whole `dw decide` with a budget of a few minutes; all worlds at twenty seeds take
hours. Each is a line on the screen and in bench/worlds.jsonl, with machine and commit; the table
at the end is of this call alone.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench._report import HERE, machine_facts
from domainwright.core.errors import DomainwrightError
from domainwright.studies.api import decide
from domainwright.studies.worlds import WORLDS, write_world

RECORD = HERE / "worlds.jsonl"
PAGE = HERE.parent / "docs" / "worlds.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", default=",".join(WORLDS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the studies; none: deleted")
    parser.add_argument("--page", action="store_true", help="write docs/worlds.md and stop")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(page(recorded()), encoding="utf-8")
        return 0
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        for name in options.worlds.split(","):
            seeds = range(options.first, options.first + options.seeds)
            found = [one(name, seed, folder / f"{name}-{seed}") for seed in seeds]
            right, minutes = sum(x["right"] for x in found), sum(x["minutes"] for x in found)
            lines.append(f"{name:12} {right:3} of {len(found):3} right, {minutes:6.1f} minutes")
    print("\n".join(lines))
    return 0


def one(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One study: whether its verdict is the planted one, its minutes, what it said."""
    begun, load = time.monotonic(), round(os.getloadavg()[0], 2)
    try:
        verdict = decide(write_world(name, seed, folder), folder / "run", fresh=True).verdict
        right, said = WORLDS[name].right(verdict), verdict.recommendation.sentence
    except DomainwrightError as error:
        # A refusal to judge claims nothing.
        right, said = name == "scarce", f"refused: {error.cause}"
    minutes = round((time.monotonic() - begun) / 60, 2)
    line = {"world": name, "seed": seed, "right": right, "minutes": minutes, "said": said}
    print(
        f"{name} {seed}: {'right' if right else 'WRONG'} in {minutes:.1f} min. {said}", flush=True
    )
    line |= {"load_before": load, **machine_facts("torch")}
    with RECORD.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line


def recorded() -> list[dict[str, Any]]:
    if not RECORD.is_file():
        return []
    return [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()]


def page(lines: list[dict[str, Any]]) -> str:
    """Every world with the seeds that were run, and each verdict that was not the planted one."""
    head = (
        "# Planted worlds\n\n"
        "Small domains whose right verdict is known by construction, decided with\n"
        "`strategies: auto` in a budget of 4 to 6 minutes on smollm2-135m.\n"
        "`python -m tests.worlds` runs them; every study is a line of `bench/worlds.jsonl`.\n"
        "The goal is 19 of 20 seeds.\n\n"
        "| world | what is planted | right | minutes a study |\n| --- | --- | ---: | ---: |\n"
    )
    rows, wrong = [], []
    for name, world in WORLDS.items():
        own = [line for line in lines if line["world"] == name]
        minutes = sorted(line["minutes"] for line in own)
        spent = f"{minutes[0]:.1f} to {minutes[-1]:.1f}" if own else ""
        right = sum(line["right"] for line in own)
        rows.append(f"| {name} | {world.summary} | {right} of {len(own)} | {spent} |")
        wrong += [f"- {name}, seed {x['seed']}: {x['said']}" for x in own if not x["right"]]
    told = "\n\nVerdicts that were not the planted ones:\n\n" + "\n".join(wrong) if wrong else ""
    return head + "\n".join(rows) + told + "\n"


if __name__ == "__main__":
    sys.exit(main())
