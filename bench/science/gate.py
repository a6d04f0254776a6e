"""What the gate of METHOD+gated lets through: new questions of its domain, and everything else.

    python -m bench.science.gate [--domains medical,legal] [--rows 400] [--shares 0.95,0.99]

Rows of a domain are parted by group: training (the vectors), development (the threshold, as a
study fits it) and test. "general" is the suite on which a study measures forgetting, "instructions"
a second general set, and "others" the test questions of the other domains. No model is trained.
Prints the table of docs/study.md; without ../shared there is nothing to measure.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from domainwright.core.seeds import share
from domainwright.evaluate.retained import shipped_suite
from domainwright.models.encoder import default_encoder
from domainwright.studies._gate import input_of, nearness, threshold

DATA = Path(__file__).parents[3] / "shared" / "data"
PARTS = {"train": 0.7, "development": 0.85, "test": 1.0}
"""Upper ends of the draws of each part."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domains", default="medical,legal,finance,science")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--shares", default="0.95,0.99")
    parser.add_argument("--nearest", type=int, default=5)
    options = parser.parse_args()
    if not DATA.is_dir():
        print("../shared/data is absent: nothing to measure.", file=sys.stderr)
        return 0
    shares = [float(x) for x in options.shares.split(",")]
    found = measured(options.domains.split(","), options.rows, shares, options.nearest)
    print("| domain | share | domain | general | instructions | other domains |")
    print("| --- " * 6 + "|")
    for (name, asked), passed in found.items():
        cells = [name, f"{asked:g}", *(f"{100 * x:.1f} %" for x in passed.values())]
        print(f"| {' | '.join(cells)} |")
    return 0


def measured(
    domains: list[str], rows: int, shares: list[float], nearest: int
) -> dict[tuple[str, float], dict[str, float]]:
    """(domain, share) -> the share of each kind of input that passes."""
    encode = default_encoder().encode
    parts = {name: _parts(name, rows) for name in domains}
    vectors = {
        name: {part: encode(texts) for part, texts in own.items()} for name, own in parts.items()
    }
    suite = shipped_suite()
    general = encode([input_of(row) for row in (*suite.texts, *suite.choices)])
    instructions = encode(_questions("general/instructions", 300))
    found = {}
    for name, own in vectors.items():

        def near(vectors_ME: np.ndarray, train: np.ndarray = own["train"]) -> np.ndarray:
            return np.array([nearness(vector_E, train, nearest) for vector_E in vectors_ME])

        others = np.concatenate([x["test"] for other, x in vectors.items() if other != name])
        inputs = {
            "domain": near(own["test"]),
            "general": near(general),
            "instructions": near(instructions),
            "others": near(others),
        }
        development = near(own["development"]).tolist()
        for asked in shares:
            least = threshold(development, asked)
            found[name, asked] = {kind: float((x >= least).mean()) for kind, x in inputs.items()}
    return found


def _parts(domain: str, rows: int) -> dict[str, list[str]]:
    """Questions by part; all of a group are in one."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for row in _drawn(f"{domain}/qa", rows):
        draw = share(0, f"part {row['group']}")
        part = next(name for name, end in PARTS.items() if draw < end)
        parts[part].append(_question(row))
    return parts


def _questions(file: str, rows: int) -> list[str]:
    return [_question(row) for row in _drawn(file, rows)]


def _drawn(file: str, rows: int) -> list[dict[str, Any]]:
    lines = (DATA / f"{file}.jsonl").read_text(encoding="utf-8").split("\n")
    found = [json.loads(line) for line in lines if line]
    return sorted(found, key=lambda row: share(0, row["id"]))[:rows]


def _question(row: dict[str, Any]) -> str:
    return next(m["content"] for m in reversed(row["messages"]) if m["role"] == "user")


if __name__ == "__main__":
    sys.exit(main())
