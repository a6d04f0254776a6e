"""The curated dataset: a folder in which every record of the source files can be found again.

    kept.parquet     rows to train on, with id, source file and line
    dropped.jsonl    every other record: file, line, id, filter, reason, detail
    changed.jsonl    kept rows that were repaired or redacted: what, and in how many places
    report.json      counts per filter, reason, file and length, with samples
    report.html      the same as a page with plots
    manifest.json    written last; names the sources by hash

Rows of several kinds make several tables: kept.chat.parquet, kept.choice.parquet.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from domainwright.core.artifacts import read_manifest, write_folder, write_json
from domainwright.core.errors import DataError
from domainwright.core.progress import Listener, Step
from domainwright.core.records import Row
from domainwright.curate._chunks import Piece, Workshop
from domainwright.curate._folders import CURATED
from domainwright.curate._page import by_length, characters, page
from domainwright.curate._table import Table
from domainwright.curate.copies import Copies

if TYPE_CHECKING:
    import polars

KIND = CURATED
COUNTS = ("records", "kept", "dropped", "changed")
SAMPLES = 3
"""Records quoted per reason in the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curated:
    """What curation did, as the report says it."""

    folder: str
    records: int
    kept: int
    dropped: int
    changed: int
    """Kept rows with at least one change."""
    tables: list[str]
    reasons: dict[str, dict[str, int]]
    """Filter -> reason -> dropped records."""
    changes: dict[str, int]
    """What -> rows changed."""
    samples: dict[str, list[dict[str, Any]]]
    """Reason -> some of its lines of dropped.jsonl."""
    secrets: dict[str, dict[str, str]]
    """Row id -> placeholder -> what stood there. Only if asked for; never in the folder."""
    files: dict[str, dict[str, int]]
    """Source file -> {"kept", "dropped"}: its records."""
    lengths: dict[str, int]
    """2^k -> kept rows of 2^k characters or more, and fewer than twice that."""

    def table(self) -> "polars.DataFrame":
        """One row for each filter and reason: what was done, and to how many rows."""
        import polars

        found = [
            {"done": "dropped", "filter": name, "reason": reason, "rows": count}
            for name, counts in self.reasons.items()
            for reason, count in counts.items()
        ]
        found += [
            {"done": "changed", "filter": None, "reason": what, "rows": count}
            for what, count in self.changes.items()
        ]
        found.append({"done": "kept", "filter": None, "reason": None, "rows": self.kept})
        kinds = {"done": str, "filter": str, "reason": str, "rows": int}
        return polars.DataFrame(found, schema=kinds)


class _Writing:
    """The dataset's files while they are written, a piece at a time, and the counts."""

    def __init__(self, folder: Path, kinds: Mapping[str, int]) -> None:
        self.folder, self.kinds = folder, kinds
        self.tables = dict[type[Row], Table]()
        self.reasons = defaultdict[str, Counter[str]](Counter)
        self.changes, self.tally = Counter[str](), Counter[str]()
        self.samples = defaultdict[str, list[dict[str, Any]]](list)
        self.secrets = dict[str, dict[str, str]]()
        self.files = defaultdict[str, Counter[str]](Counter)
        self.lengths = Counter[int]()
        for name in ("dropped", "changed"):
            (folder / f"{name}.jsonl").touch()

    def add(
        self, piece: Piece, kept: Mapping[type[Row], pa.Table], out: list[dict[str, Any]]
    ) -> None:
        """A piece: its rows that stay, by kind, and the lines of those that do not."""
        dropped = sorted([*piece.dropped, *out], key=lambda entry: entry["line"])
        stay = {id for table in kept.values() for id in table["id"].to_pylist()}
        changed = [entry for entry in piece.changed if entry["id"] in stay]
        for kind, table in kept.items():
            if kind not in self.tables:
                name = "kept" if len(self.kinds) == 1 else f"kept.{kind.__name__.lower()}"
                self.tables[kind] = Table(self.folder / f"{name}.parquet", table.schema)
            self.tables[kind].add(table)
            self.lengths.update(by_length(characters(table)))
            for one in table["source_file"].value_counts().to_pylist():
                self.files[one["values"]]["kept"] += one["counts"]
        _append(self.folder / "dropped.jsonl", dropped)
        _append(self.folder / "changed.jsonl", changed)
        for entry in dropped:
            self.reasons[entry["filter"]][entry["reason"]] += 1
            self.files[entry["file"]]["dropped"] += 1
            if len(self.samples[entry["reason"]]) < SAMPLES:
                self.samples[entry["reason"]].append(entry)
        self.changes.update(entry["what"] for entry in changed)
        self.secrets.update({id: own for id, own in piece.secrets.items() if id in stay})
        self.tally.update(
            records=piece.records,
            kept=sum(map(len, kept.values())),
            dropped=len(dropped),
            changed=len({entry["id"] for entry in changed}),
        )

    def close(self) -> dict[str, Any]:
        """The report; a DataError when the counts do not add up or nothing is left."""
        for table in self.tables.values():
            table.close()
        _check(self.tally)
        return {
            **{name: self.tally[name] for name in COUNTS},
            "tables": sorted(path.name for path in self.folder.glob("*.parquet")),
            "reasons": {
                name: dict(count.most_common()) for name, count in sorted(self.reasons.items())
            },
            "changes": dict(self.changes.most_common()),
            "samples": dict(self.samples),
            "files": {
                name: {"kept": own["kept"], "dropped": own["dropped"]}
                for name, own in sorted(self.files.items())
            },
            "lengths": {str(low): self.lengths[low] for low in sorted(self.lengths)},
        }


def write_curated(
    folder: Path,
    shop: Workshop,
    pieces: int,
    found: Copies,
    out: Mapping[int, tuple[str, str]],
    parents: Mapping[str, str],
    facts: Mapping[str, Any],
    listen: Listener,
) -> Curated:
    """Write the folder from the pieces.

    Args:
        found: row number -> the copy it is.
        out: row number -> (reason, detail) of rows that were not selected.

    Raises:
        DataError: no row is left, or records were lost: then nothing is written.
    """
    kinds = sum((Counter(shop.read(n).kinds) for n in range(pieces)), Counter[str]())
    said, report, secrets = dict(facts), dict[str, Any](), dict[str, dict[str, str]]()

    def fill(temporary: Path) -> None:
        writing, number = _Writing(temporary, kinds), 0
        for n in range(pieces):
            kept, lines, rows = dict[type[Row], pa.Table](), list[dict[str, Any]](), 0
            for kind, (places, table) in shop.tables(n).items():
                rows += len(places)
                gone = found.has(number + places)
                if out:
                    gone |= np.array([m in out for m in (number + places).tolist()])
                if not gone.all():
                    kept[kind] = table.filter(pa.array(~gone))
                lines += [_gone(shop, m, found, out) for m in (number + places)[gone].tolist()]
            number += rows
            writing.add(shop.read(n), kept, lines)
            listen(Step("write", n + 1, pieces))
        report.update(writing.close())
        secrets.update(writing.secrets)
        write_json(temporary / "report.json", {**report, "settings": dict(facts)})
        (temporary / "report.html").write_text(page(report, facts), encoding="utf-8")
        said.update({name: report[name] for name in COUNTS})

    write_folder(folder, KIND, fill, parents=parents, facts=said)
    return Curated(folder=str(folder), secrets=secrets, **report)


def read_report(folder: Path) -> Curated:
    """The report of a curated dataset.

    Raises:
        DataError: no complete curated dataset, or its files were altered.
    """
    read_manifest(folder, KIND)
    report = json.loads((folder / "report.json").read_text("utf-8"))
    report.pop("settings")
    return Curated(folder=str(folder), secrets={}, **report)


def explain(folder: Path, row: str) -> list[dict[str, Any]]:
    """The story of a row: its lines of dropped.jsonl and changed.jsonl, and where it is kept.

    Raises:
        DataError: no row of that id was in the source files.
    """
    import pyarrow.parquet as pq

    read_manifest(folder, KIND)
    story = []
    for name in ("changed", "dropped"):
        with open(folder / f"{name}.jsonl", encoding="utf-8", newline="\n") as file:
            lines = (json.loads(line) for line in file if row in line)
            story += [{"was": name, **entry} for entry in lines if entry["id"] == row]
    for path in sorted(folder.glob("*.parquet")):
        columns = ["id", "source_file", "source_line"]
        table = pq.read_table(path, columns=columns, filters=[("id", "=", row)])
        story += [
            {"was": "kept", "table": path.name, "file": f["source_file"], "line": f["source_line"]}
            for f in table.to_pylist()
        ]
    if not story:
        raise DataError(
            f"No row with the id {row!r} was curated into {folder}.",
            "take an id from kept.parquet, dropped.jsonl or changed.jsonl there; a record that "
            "could not be read has none.",
        )
    return story


def _gone(
    shop: Workshop, number: int, found: Copies, out: Mapping[int, tuple[str, str]]
) -> dict[str, Any]:
    """The line of a row that is a copy, or was not selected."""
    row = shop.row(number)
    if number not in found:
        return dropped_line(row, "select", *out[number])
    copy = found[number]
    return dropped_line(row, "copies", *copy.told(shop.row(copy.of)))


def dropped_line(row: Row, name: str, reason: str, detail: str) -> dict[str, Any]:
    """One line of dropped.jsonl."""
    return {
        "file": row.file,
        "line": row.line,
        "id": row.id,
        "filter": name,
        "reason": reason,
        "detail": detail,
    }


def _append(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def _check(tally: Mapping[str, int]) -> None:
    if tally["records"] != tally["kept"] + tally["dropped"]:
        raise DataError(
            f"{tally['records']:,} records were read, but {tally['kept']:,} kept and "
            f"{tally['dropped']:,} dropped do not make as many.",
            "report this with the files: a row was lost, and nothing was written.",
        )
    if not tally["kept"]:
        raise DataError(
            f"None of the {tally['records']:,} records is left.",
            "look at the data with dw data show FILE, or leave a filter out with --without NAME.",
        )
