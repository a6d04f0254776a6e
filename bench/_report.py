"""What every bench prints: spread, machine, load, and one JSON line for the history.

run_anyway = refuse_when_busy(options)      before the clock starts
publish({"bench": …, "ratio": spread(ratios), **machine_facts("torch")})
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HISTORY = HERE / "history.jsonl"
BUSY = 0.5
"""Load a core, over the last minute, from which other work would be part of the figure."""

IDLE = 0.1
"""Share of the cores at work, at this moment, up to which a machine is quiet."""
STAT = Path("/proc/stat")


def working_now(seconds: float = 2.0) -> float | None:
    """Cores at work over the next seconds; None where the system does not tell."""
    if not STAT.is_file():
        return None

    def read() -> tuple[int, int]:
        ticks = [int(x) for x in STAT.read_text().split("\n", 1)[0].split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]

    (before, rested), _ = read(), time.sleep(seconds)
    after, rests = read()
    share = 1 - (rests - rested) / max(1, after - before)
    return share * (os.cpu_count() or 1)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest: a ratio without them says nothing."""
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


def machine_facts(*packages: str) -> dict[str, object]:
    """What a figure was measured on. `packages`: whose versions are part of it."""
    from importlib.metadata import PackageNotFoundError, version

    from domainwright.core import machine

    def found(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    return {
        "processor": machine.processor(),
        "cores": machine.cores(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {p: found(p) for p in packages},
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--anyway`: measure although the machine is busy."""
    parser.add_argument(
        "--anyway", action="store_true", help="measure on a busy machine; the line is marked"
    )


def refuse_when_busy(options: argparse.Namespace) -> dict[str, Any]:
    """Facts about the load before the start, for the JSON line.

    Raises:
        SystemExit: other work is going on, and `--anyway` was not given.
    """
    from domainwright.core import machine

    load, limit = os.getloadavg()[0], BUSY * machine.cores()
    facts: dict[str, Any] = {"load_before": round(load, 2)}
    if load <= limit:
        return facts
    # The load of the last minute may be our own last measurement: what counts is who works now.
    now = working_now()
    if now is not None:
        facts["cores_busy_before"] = round(now, 2)
        if now <= IDLE * machine.cores():
            return facts
    if not options.anyway:
        raise SystemExit(
            f"no figure: the load of the last minute is {load:.2f}, above {limit:.2f}, so other "
            "work would be measured too.\n  fix: wait until the machine is quiet, or add "
            "--anyway, which marks the line."
        )
    return facts | {"busy": True}


def publish(line: Mapping[str, Any]) -> None:
    """Print the line and append it to the history."""
    text = json.dumps(line)
    print(text, flush=True)
    with open(HISTORY, "a", encoding="utf-8") as file:
        file.write(text + "\n")


def note(text: str) -> None:
    """A word to the reader, not a figure: stdout holds JSON lines only."""
    print(text, file=sys.stderr, flush=True)
