"""Records of comma- or tab-separated tables and of Parquet files."""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from domainwright.core.errors import DataError
from domainwright.curate._lines import MAX_LINE_BYTES, Fault, Lines, Record, flaw, opened


def comma_separated(path: Path) -> Iterator[Record | Fault]:
    yield from _table(path, None)


def tab_separated(path: Path) -> Iterator[Record | Fault]:
    yield from _table(path, "\t")


def _table(path: Path, delimiter: str | None) -> Iterator[Record | Fault]:
    # Global in the csv module, so it is only ever raised: 128 KiB cuts real documents off.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    with opened(path) as file:
        lines = Lines(file, path)
        # Bytes that are no UTF-8 stay recognisable, so only their row is set aside.
        texts = (raw.decode("utf-8", "surrogateescape") for raw in lines)
        first = next((text for text in texts if text.strip()), "")
        skipped = lines.number - 1
        # strict: an open quote at the end of the file would otherwise swallow rows unseen.
        rows = csv.reader(
            itertools.chain([first], texts), delimiter=delimiter or _delimiter(first), strict=True
        )
        names = _header(rows, path)
        while True:
            start = skipped + rows.line_num + 1
            lines.cut = False
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield _broken(error, start, skipped + rows.line_num)
                continue
            if cells:
                yield _row(names, cells, start, lines.cut)


def _row(names: list[str], cells: list[str], line: int, cut: bool) -> Record | Fault:
    if cut or sum(map(len, cells)) > MAX_LINE_BYTES:
        return Fault(line, "line_too_long", "the row is longer than 16 MiB")
    if found := flaw(cells):
        return Fault(line, *found)
    if len(cells) != len(names):
        return Fault(
            line,
            "wrong_cell_count",
            f"{len(cells)} cells under {len(names)} columns; is a quote or a delimiter missing?",
        )
    return Record(line, dict(zip(names, cells, strict=True)))


def _broken(error: csv.Error, start: int, end: int) -> Fault:
    if "field limit" in str(error):
        return Fault(start, "line_too_long", "a cell is longer than 16 MiB")
    if "unexpected end" in str(error):
        return Fault(start, "open_quote", f"a quote opens here and never closes (up to line {end})")
    return Fault(start, "not_csv", str(error))


def _delimiter(header: str) -> str:
    """The sign that stands most often in the header: spreadsheets in Europe write semicolons."""
    return max(",;\t", key=header.count)


def _header(rows: Iterator[list[str]], path: Path) -> list[str]:
    try:
        cells = next(rows, [])
    except csv.Error as error:
        raise DataError(
            f"The first line of {path} is no table header ({error}).",
            "write the column names there, separated by commas.",
        ) from error
    if found := flaw(cells):
        raise DataError(f"The header of {path} has {found[1]}.", "save the file as UTF-8.")
    # pandas leaves the name of its index column empty.
    names = [cell.strip() or f"unnamed_{n}" for n, cell in enumerate(cells, 1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path} has the column {twice[0]!r} twice.", "rename one of the two columns."
        )
    return names


def parquet(path: Path) -> Iterator[Record | Fault]:
    """Rows of a Parquet file; the line is the 1-based position."""
    # Imported here: the other formats need no Arrow.
    import pyarrow as pa
    import pyarrow.parquet as pq

    position = 0
    try:
        with pq.ParquetFile(path) as file:
            named = _named(file.schema_arrow.metadata or {})
            for batch in file.iter_batches(batch_size=1024):
                for data in _rows(batch):
                    position += 1
                    yield _cells(_with_names(data, named), position)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet after row {position} ({str(error)[:120]}).",
            "write the file again, or give it as JSON lines.",
        ) from error


def _named(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column of lists of label numbers -> their names, as `datasets` writes them into a file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        found = {}
        for column, feature in features.items():
            inner = feature[0] if isinstance(feature, list) else feature.get("feature")
            if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
                found[column] = [str(name) for name in inner["names"]]
        return found
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return {}


def _with_names(data: dict[str, Any] | None, named: dict[str, list[str]]) -> dict[str, Any] | None:
    """The row with names instead of numbers; a number without a name stays."""
    for column, names in named.items() if data else ():
        if data and isinstance(data.get(column), list):
            data[column] = [
                names[x] if isinstance(x, int) and 0 <= x < len(names) else x for x in data[column]
            ]
    return data


def _rows(batch: Any) -> list[dict[str, Any] | None]:
    """The batch's rows; None for a row with a string that is no UTF-8."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [_one(batch, n) for n in range(batch.num_rows)]


def _one(batch: Any, position: int) -> dict[str, Any] | None:
    try:
        return dict(batch.slice(position, 1).to_pylist()[0])
    except UnicodeDecodeError:
        return None


def _cells(data: dict[str, Any] | None, position: int) -> Record | Fault:
    if data is None:
        return Fault(position, "not_utf8", "a string that is no UTF-8")
    found = flaw(data)
    return Fault(position, *found) if found else Record(position, data)
