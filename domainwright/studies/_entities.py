"""Types of entities: those that a run was trained to find, and those that no row teaches."""

import json
from pathlib import Path

from domainwright.core.records import Extraction, Row
from domainwright.curate.dataset import row_from_json
from domainwright.curate.split import Split
from domainwright.curate.tagged import Kinds, kinds_asked
from domainwright.maths.spans import spans_of

SHOWN = 5
"""Types named in a note."""


def kinds_of_run(run: Path) -> Kinds | None:
    """The types of entities that a run was trained to find; None where it has other rows."""
    file = run / "dataset" / "train.jsonl"
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", newline="\n") as lines:
        first = lines.readline()
    return kinds_asked([row_from_json(json.loads(first))]) if first.strip() else None


def entity_notes(divided: Split) -> list[str]:
    """What the verdict says about types that no training row shows."""
    learned = {kind for row in divided.train for kind in _kinds(row)}
    unknown = sorted({kind for row in divided.test for kind in _kinds(row)} - learned)
    if not unknown:
        return []
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    return [
        f"Test rows have entities of types that no training row has: "
        f"{', '.join(unknown[:SHOWN])}{more}. No method could learn them."
    ]


def _kinds(row: Row) -> set[str]:
    return {s.kind for s in spans_of(row.tags)} if isinstance(row, Extraction) else set()
