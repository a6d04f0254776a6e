"""One file to rows: find its format, read every record, account for each of them."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import sha256_file
from domainwright.core.errors import DataError
from domainwright.core.records import Row, SetAside
from domainwright.curate import files
from domainwright.curate._cells import Unusable
from domainwright.curate._columns import (
    Renaming,
    matching,
    normal,
    shapes,
    unrecognised,
    used,
)
from domainwright.curate._lines import Fault, Record
from domainwright.curate._place import Place, given_id
from domainwright.curate._placeholders import without_placeholders
from domainwright.curate.readers import Reader

_SAMPLE_RECORDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResult:
    """What one file, or one folder of documents, gave."""

    file: str
    sha256: str
    format: str
    """Name of the reader, found from the columns or given by the caller."""
    columns: dict[str, str]
    """Role -> column of the file that played it."""
    records: int
    """Records found: len(rows) + len(set_aside)."""
    rows: list[Row]
    set_aside: list[SetAside]
    notes: dict[str, int]
    """What was changed in rows that were kept, and how often."""


class Stream:
    """One file, record by record: its format is found at once, its rows are read when asked for.

    Raises:
        DataError: nothing can be read, or no format fits.
    """

    def __init__(
        self, path: Path, prefix: str, readers: Mapping[str, Reader], overrides: Mapping[str, str]
    ) -> None:
        self._renaming, self._readers = Renaming(overrides, readers), readers
        found = files.records(path)
        head = list(_head(found))
        sample = [item for item in head if isinstance(item, Record)]
        if not sample:
            raise _nothing_usable(
                path, [aside(path, item, None) for item in head if isinstance(item, Fault)]
            )
        names = list(dict.fromkeys(name for record in sample for name in record.data))
        self._renaming.check(names, str(path))
        seen = [self._renaming.apply(record.data) for record in sample]
        name = _format(seen, readers)
        if name is None:
            raise unrecognised(str(path), [record.data for record in sample], readers)
        self.format = name
        """Name of the reader."""
        self.columns = _columns(names, seen, self._renaming, readers[name])
        self.place = Place(str(path), prefix, 0)
        self._items = itertools.chain(head, found)

    def __iter__(self) -> Iterator[Row | SetAside]:
        """Every record, once: a row, or the reason why it is none."""
        for item in self._items:
            yield _row(item, self.place, self.format, self._readers, self._renaming)


def read_file(
    path: Path, prefix: str, readers: Mapping[str, Reader], overrides: Mapping[str, str]
) -> ReadResult:
    stream = Stream(path, prefix, readers, overrides)
    rows, set_aside, first_line = list[Row](), list[SetAside](), dict[str, int]()
    total = 0
    for made in stream:
        total += 1
        if isinstance(made, Row) and made.id in first_line:
            detail = f"the id {made.id!r} was used on line {first_line[made.id]}"
            made = SetAside.of(made, "duplicate_id", detail)
        if isinstance(made, SetAside):
            set_aside.append(made)
        else:
            first_line[made.id] = made.line
            rows.append(made)
    rows, empty = without_placeholders(rows)
    set_aside = sorted(set_aside + empty, key=lambda entry: entry.line)
    if not rows:
        raise _nothing_usable(path, set_aside)
    return ReadResult(
        file=str(path),
        sha256=sha256_file(path),
        format=stream.format,
        columns=stream.columns,
        records=total,
        rows=rows,
        set_aside=set_aside,
        notes=dict(sorted(stream.place.notes.items())),
    )


def _columns(
    names: list[str], seen: list[dict[str, Any]], renaming: Renaming, reader: Reader
) -> dict[str, str]:
    """Role -> column as the file writes it, for columns that most of the sample has."""
    common = Counter(column for record in seen for column in record)
    most = Counter({column: n for column, n in common.items() if 2 * n > len(seen)})
    written = {normal(name): name for name in reversed(names)}
    written |= {role: written[own] for role, own in renaming.taken.items()}
    return {
        role: ", ".join(written[part] for part in column.split(", "))
        for role, column in used(reader, most).items()
    }


def _head(found: Iterator[Record | Fault]) -> Iterator[Record | Fault]:
    """Up to the hundredth record that is whole."""
    whole = 0
    for item in found:
        yield item
        whole += isinstance(item, Record)
        if whole == _SAMPLE_RECORDS:
            return


def _format(seen: list[dict[str, Any]], readers: Mapping[str, Reader]) -> str | None:
    """What most records of the sample are. Records of no format vote too."""
    if len(readers) == 1:
        return next(iter(readers))
    votes = Counter(matching(shapes(record), readers) for record in seen)
    return votes.most_common(1)[0][0]


def _row(
    item: Record | Fault,
    place: Place,
    name: str,
    readers: Mapping[str, Reader],
    renaming: Renaming,
) -> Row | SetAside:
    if isinstance(item, Fault):
        return aside(place.file, item, None)
    place.line = item.line
    record = renaming.apply(item.data)
    columns = shapes(record)
    if not readers[name].matches(columns):
        other = matching(columns, readers)
        if other is not None:
            detail = f"it looks like {other!r}; most of the file is {name!r}"
            return aside(place.file, Fault(item.line, "other_format", detail), record)
    try:
        return readers[name].row(record, place)
    except Unusable as why:
        return aside(place.file, Fault(item.line, why.reason, why.detail), record)


def aside(file: str | Path, fault: Fault, record: Mapping[str, Any] | None) -> SetAside:
    own = given_id(record) if record is not None else None
    return SetAside(
        file=str(file), line=fault.line, id=own, reason=fault.reason, detail=fault.detail
    )


def _nothing_usable(path: Path, set_aside: list[SetAside]) -> DataError:
    reasons = Counter(entry.reason for entry in set_aside)
    first = {entry.reason: entry for entry in reversed(set_aside)}
    listed = "; ".join(
        f"{n} {reason} (line {first[reason].line}: {first[reason].detail})"
        for reason, n in reasons.most_common(5)
    )
    return DataError(
        f"None of the {len(set_aside):,} records in {path} can be used: {listed}.",
        "correct the file, or say what its columns are with `format:` and `columns:`.",
    )
