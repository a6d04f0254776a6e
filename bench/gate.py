"""What the gate of METHOD+gated lets through: new questions of its domain, and everything else.

    python -m bench.gate [--domains medical,legal,finance,science] [--rows 400] [--shares 0.95,0.99]

Rows of a domain are parted by group: training (the vectors), development (the threshold, as a
study fits it) and test. "general" is the suite on which a study measures forgetting, "instructions"
a second general set, and "others" the test questions of the other domains. Shares that pass; no
model is trained. One JSON line goes to bench/history.jsonl; without ../shared there is nothing to
measure.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench._report import add_options, machine_facts, note, publish, refuse_when_busy
from domainwright.core.seeds import share
from domainwright.evaluate.retained import shipped_suite
from domainwright.models.encoder import default_encoder
from domainwright.studies._gate import input_of, nearness, threshold

DATA = Path(__file__).parents[2] / "shared" / "data"
PARTS = {"train": 0.7, "development": 0.85, "test": 1.0}
"""Upper ends of the draws of each part."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domains", default="medical,legal,finance,science")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--shares", default="0.95,0.99")
    parser.add_argument("--nearest", type=int, default=5)
    add_options(parser)
    options = parser.parse_args()
    if not DATA.is_dir():
        note("../shared/data is absent: nothing to measure.")
        return 0
    load = refuse_when_busy(options)
    shares = [float(x) for x in options.shares.split(",")]
    found = measured(options.domains.split(","), options.rows, shares, options.nearest)
    publish({"bench": "gate", "passed": found, **machine_facts("torch", "transformers"), **load})
    return 0


def measured(
    domains: list[str], rows: int, shares: list[float], nearest: int
) -> dict[str, dict[str, Any]]:
    """Domain and share -> the threshold, and the share of each kind of input that passes."""
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
            passed = {kind: round(float((x >= least).mean()), 4) for kind, x in inputs.items()}
            found[f"{name} {asked:g}"] = {"threshold": round(least, 3), **passed}
            note(f"{name} {asked:g}: {passed}")
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
