"""Planted worlds on the embedded base: how often the verdict is the planted one.

    python -m tests.worlds [--worlds changing,noise] [--seeds 20] [--first 0] [--keep FOLDER]

One line a study, then a table. A study is a whole `dw decide` with a budget of a few minutes;
all worlds at twenty seeds take hours.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from domainwright.core.errors import DomainwrightError
from domainwright.studies.api import decide
from domainwright.studies.worlds import WORLDS, write_world


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", default=",".join(WORLDS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the studies; none: deleted")
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        for name in options.worlds.split(","):
            seeds = range(options.first, options.first + options.seeds)
            found = [one(name, seed, folder / f"{name}-{seed}") for seed in seeds]
            right, minutes = sum(x for x, _ in found), sum(x for _, x in found)
            lines.append(f"{name:12} {right:3} of {len(found):3} right, {minutes:6.1f} minutes")
    print("\n".join(lines))
    return 0


def one(name: str, seed: int, folder: Path) -> tuple[bool, float]:
    """(whether the verdict is the planted one, minutes)."""
    begun = time.monotonic()
    try:
        verdict = decide(write_world(name, seed, folder), folder / "run", fresh=True).verdict
        right, said = WORLDS[name].right(verdict), verdict.recommendation.sentence
    except DomainwrightError as error:
        # A refusal to judge claims nothing.
        right, said = name == "scarce", f"refused: {error.cause}"
    minutes = (time.monotonic() - begun) / 60
    print(
        f"{name} {seed}: {'right' if right else 'WRONG'} in {minutes:.1f} min. {said}", flush=True
    )
    return right, minutes


if __name__ == "__main__":
    sys.exit(main())
