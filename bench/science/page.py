"""docs/science.md and its plots from bench/science/results.jsonl. `python -m bench.science.page`

Of every claim the last line counts. Rows without one are named as not measured.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.science.arms import Effort
from bench.science.drawings import draw
from bench.science.rows import ROWS
from bench.science.t0 import Recipe, texts, world_of
from bench.science.verdicts import paired

RESULTS = Path(__file__).parent / "results.jsonl"
DOCS = Path(__file__).parents[2] / "docs"
MARKS = {True: "met", False: "not met", None: "open"}
HEAD = """# Science bench

Published claims about tuning, measured anew with Domainwright's own engine on a base small enough
for one core. Written by `python -m bench.science.page` from `bench/science/results.jsonl`; all of
it is measured by `make science`, one row by the command under its heading.

**The world** (`bench/science/t0.py`). A made-up language G has nouns of four classes, each with
its verbs and adjectives, and facts. Four domains have nouns, verbs and values of their own,
another word order and other facts, and contradict G on twelve of its nouns; nothing but its words
tells a text of a domain from one of G. Every choice is drawn evenly, so the entropy of a text is
known. The base is a Llama of about a million parameters that our engine trained on G: its loss
there is {general:.3f} nats per token, where {floor:.3f} is the least possible. It knows every word
of the domains, and nothing of what they say.

**The rules.** {steps} steps of {batch} documents (about 20 tokens each) an arm, replayed ones
counted: a short run, for the least possible loss on D1 is {domain:.3f}. The rate of every arm is
swept in factors of three on validation texts with a seed of its own, and further where the best
one is outermost; then {seeds} seeds (training texts, order, start) are measured on test texts.
Brackets are 95 % intervals of the mean over seeds (Student's t, paired where two arms are
compared). A criterion is met or not met where the whole interval is on one side of its limit, else
open; a claim is reproduced where all are met, not reproduced where one is not met, inconclusive
otherwise. A small world shows that a claim can hold or fail, not that it does for a large model.
"""


def main() -> int:
    records = newest(RESULTS)
    (DOCS / "science.md").write_text(page(records), encoding="utf-8")
    for name, record in records.items():
        kind = ROWS.get(name.lower())
        drawn = draw(record, kind.drawing, f"{name}: {kind.title}")
        drawn.save(DOCS / "images" / f"science_{name.lower()}.svg")
    return 0


def newest(file: Path) -> dict[str, dict[str, Any]]:
    """Claim -> its last line, in the order of their numbers."""
    lines = [json.loads(x) for x in file.read_text(encoding="utf-8").splitlines()]
    found = {line["claim"]: line for line in lines}
    return dict(sorted(found.items(), key=lambda pair: int(pair[0][1:])))


def page(records: Mapping[str, Mapping[str, Any]]) -> str:
    one = next(iter(records.values()))
    world = world_of(Recipe())
    least = texts(world, world.languages["D1"], "test", one["effort"]["held_out"]).floor
    lines = [HEAD.format(**one["base"], **one["effort"], domain=least)]
    lines += ["| row | claim | verdict |", "| --- | --- | --- |"]
    for name in sorted((n.upper() for n in ROWS.names()), key=lambda n: int(n[1:])):
        found = records[name]["verdict"] if name in records else "not measured yet"
        lines.append(f"| {name} | {ROWS.get(name.lower()).title} | {found} |")
    for name, record in records.items():
        lines += section(name, record, ROWS.get(name.lower()))
    return "\n".join(lines) + "\n"


def section(name: str, record: Mapping[str, Any], kind: Any) -> list[str]:
    image = f"images/science_{name.lower()}.svg"
    seeds = record["effort"]["seeds"]
    effort = "" if seeds == Effort().seeds else f" --seeds {seeds}"
    return [
        "",
        f"## {name}: {kind.title}",
        "",
        f"Claimed by {kind.source}. `python -m bench.science.rows --rows {name}{effort}`, "
        f"{record['seconds'] / 60:.0f} minutes on a core with others at work.",
        "",
        kind.did,
        "",
        f"**Verdict: {record['verdict']}.**",
        "",
        "| criterion | found | |",
        "| --- | --- | --- |",
        *(f"| {c['words']} | {c['found']} | {MARKS[c['met']]} |" for c in record["criteria"]),
        "",
        *table(record, kind.columns),
        *(kind.extra(record["figures"]) if hasattr(kind, "extra") else []),
        "",
        f"![{kind.title}]({image})",
    ]


def table(record: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Every arm's figures, and the rate that was best for it."""
    rates = record["rates"]
    lines = [f"| arm | {' | '.join(columns)} | rate |", "| --- " * (len(columns) + 2) + "|"]
    for arm, own in record["figures"].items():
        swept = {r: x for r, x in rates.get(arm, {}).items() if x is not None}
        rate = min(swept, key=swept.__getitem__) if swept else ""
        cells = [_cell(own.get(column)) for column in columns]
        lines.append(f"| {arm} | {' | '.join(cells)} | {rate} |")
    return lines


def _cell(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    return str(paired(values)) if len(values) > 1 else f"{values[0]:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
