"""The dataset artifact: train, dev and test as JSON lines, what was set aside, and facts.

    records read = train + dev + test + set aside

A folder whose counts do not add up is never written.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainwright.core import records
from domainwright.core.artifacts import read_manifest, write_folder
from domainwright.core.errors import DataError
from domainwright.core.records import Message, Provenance, Row, SetAside
from domainwright.curate.read import ReadResult
from domainwright.curate.split import Split

PARTS = ("train", "dev", "test")
_KINDS: dict[str, type[Row]] = {
    "chat": records.Chat,
    "choice": records.Choice,
    "labelled": records.Labelled,
    "tagged": records.Tagged,
    "extraction": records.Extraction,
    "text": records.Text,
    "preference": records.Preference,
    "rated": records.Rated,
    "document": records.Document,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset folder, read back."""

    train: tuple[Row, ...]
    dev: tuple[Row, ...]
    test: tuple[Row, ...]
    set_aside: tuple[SetAside, ...]
    manifest: dict[str, Any]


def write_dataset(
    folder: Path, split: Split, set_aside: Sequence[SetAside], reads: Sequence[ReadResult]
) -> dict[str, Any]:
    """Write the folder and return its manifest.

    Args:
        set_aside: what was set aside after reading: duplicates, leaks. What the
            readers set aside is taken from `reads`.
        reads: the files that the rows come from, all of them.

    Raises:
        DataError: the counts do not add up, so a row was lost or stands twice.
    """
    aside = [entry for result in reads for entry in result.set_aside] + list(set_aside)
    rows = {part: getattr(split, part) for part in PARTS}
    found, kept = sum(result.records for result in reads), sum(map(len, rows.values()))
    if found != kept + len(aside):
        raise DataError(
            f"{found:,} records were read, but {kept:,} rows and {len(aside):,} set aside make "
            f"{kept + len(aside):,}.",
            "pass every file that was read, and everything that was set aside after reading.",
        )
    facts = {
        **split.facts,
        "records": found,
        "set_aside": dict(sorted(Counter(entry.reason for entry in aside).items())),
        "merged_groups": [list(names) for names in split.merged_groups],
        "files": [
            {
                "file": result.file,
                "format": result.format,
                "columns": result.columns,
                "records": result.records,
                "rows": len(result.rows),
                "notes": result.notes,
            }
            for result in reads
        ],
    }

    def fill(temporary: Path) -> None:
        for part in PARTS:
            _write_lines(temporary / f"{part}.jsonl", map(row_as_json, rows[part]))
        _write_lines(temporary / "set_aside.jsonl", map(dataclasses.asdict, aside))

    parents = {result.file: result.sha256 for result in reads}
    return write_folder(Path(folder), "dataset", fill, parents=parents, facts=facts)


def read_dataset(folder: Path) -> Dataset:
    """Read a folder that `write_dataset` made; the rows are equal to those written.

    Raises:
        DataError: no complete dataset, or its files were altered.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, "dataset")
    return Dataset(
        **{
            part: tuple(map(row_from_json, _read_lines(folder / f"{part}.jsonl"))) for part in PARTS
        },
        set_aside=tuple(SetAside(**entry) for entry in _read_lines(folder / "set_aside.jsonl")),
        manifest=manifest,
    )


def row_as_json(row: Row) -> dict[str, Any]:
    """The row as plain data, its kind first, without a provenance, an ask or a delimiter that it
    has not."""
    data = {"kind": _NAMES[type(row)], **dataclasses.asdict(row)}
    if row.provenance is None:
        del data["provenance"]
    if isinstance(row, records.Choice):
        for name in ("ask", "delimiter"):
            if data[name] is None:
                del data[name]
    return data


def row_from_json(data: Mapping[str, Any]) -> Row:
    """The row that `row_as_json` was given.

    Raises:
        DataError: an unknown kind.
    """
    values = dict(data)
    kind = values.pop("kind", None)
    if kind not in _KINDS:
        raise DataError(f"A row is of the kind {kind!r}.", f"use one of: {', '.join(_KINDS)}.")
    for name in ("messages", "prompt"):
        if name in values:
            values[name] = tuple(Message(**turn) for turn in values[name])
    for name in ("choices", "words", "tags", "kinds"):
        if name in values:
            values[name] = tuple(values[name])
    if "provenance" in values:
        made = values["provenance"]
        values["provenance"] = Provenance(**{**made, "filters": tuple(made["filters"])})
    return _KINDS[kind](**values)


def _write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for entry in entries:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]
