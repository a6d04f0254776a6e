"""Rows as columns, and back: the table that `curate.read` reads as the same rows."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from domainwright.core.records import (
    Chat,
    Choice,
    Document,
    Labelled,
    Message,
    Preference,
    Rated,
    Row,
    Tagged,
    Text,
)

_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_ORIGIN = [
    ("id", pa.string()),
    ("group", pa.string()),
    ("date", pa.string()),
    ("topic", pa.string()),
    ("source_file", pa.string()),
    ("source_line", pa.int64()),
]
_COLUMNS: dict[type[Row], list[tuple[str, Any]]] = {
    Chat: [("messages", _TURNS)],
    Choice: [
        ("question", pa.string()),
        ("context", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.int64()),
    ],
    Text: [("text", pa.string())],
    Labelled: [("text", pa.string()), ("label", pa.string())],
    Tagged: [("words", pa.list_(pa.string())), ("tags", pa.list_(pa.string()))],
    Preference: [("prompt", _TURNS), ("chosen", pa.string()), ("rejected", pa.string())],
    Rated: [("prompt", _TURNS), ("completion", pa.string()), ("label", pa.bool_())],
    Document: [
        ("title", pa.string()),
        ("section", pa.string()),
        ("page", pa.int64()),
        ("text", pa.string()),
    ],
}


_GROUP_ROWS = 20_000

KINDS: tuple[type[Row], ...] = tuple(_COLUMNS)


def columns(rows: Sequence[Row]) -> pa.Table:
    """Rows of one kind, at least one, as a table."""
    schema = pa.schema(_ORIGIN + _COLUMNS[type(rows[0])])
    return pa.Table.from_pylist([_record(row) for row in rows], schema=schema)


def rows_of(kind: type[Row], table: pa.Table) -> list[Row]:
    """The rows that `columns` was given, all of the class `kind`."""
    return [_row(kind, record) for record in table.to_pylist()]


def row_at(kind: type[Row], columns: Mapping[str, pa.ChunkedArray], place: int) -> Row:
    """One of them; sliced and given to `rows_of` it would take twice as long."""
    return _row(kind, {name: column[place].as_py() for name, column in columns.items()})


class Table:
    """A parquet file that rows of one kind are added to, written beside whoever adds them."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting, self._rows = list[pa.Table](), 0
        self._thread, self._written = ThreadPoolExecutor(1), Future[None]()
        self._written.set_result(None)

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._rows += len(rows)
        if self._rows >= _GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        self._written.result()
        group, self._waiting, self._rows = pa.concat_tables(self._waiting), [], 0
        self._written = self._thread.submit(self._writer.write_table, group)

    def close(self) -> None:
        if self._waiting:
            self._write()
        self._thread.shutdown()
        self._written.result()
        self._writer.close()


def _row(kind: type[Row], record: dict[str, Any]) -> Row:
    own = dict(record)
    own["file"], own["line"] = own.pop("source_file"), own.pop("source_line")
    for name in ("messages", "prompt"):
        if name in own:
            own[name] = tuple(Message(**turn) for turn in own[name])
    for name in ("choices", "words", "tags"):
        if name in own:
            own[name] = tuple(own[name])
    if kind is Rated:
        own["reply"], own["wanted"] = own.pop("completion"), own.pop("label")
    return kind(**own)


def _record(row: Row) -> dict[str, Any]:
    own: dict[str, Any] = {
        "id": row.id,
        "group": row.group,
        "date": row.date,
        "topic": row.topic,
        "source_file": row.file,
        "source_line": row.line,
    }
    match row:
        case Chat():
            own["messages"] = _turns(row.messages)
        case Choice():
            own |= {"question": row.question, "context": row.context}
            own |= {"choices": list(row.choices), "answer": row.answer}
        case Preference():
            own |= {"prompt": _turns(row.prompt), "chosen": row.chosen, "rejected": row.rejected}
        case Rated():
            own |= {"prompt": _turns(row.prompt), "completion": row.reply, "label": row.wanted}
        case Document():
            own |= {"title": row.title, "section": row.section}
            own |= {"page": row.page, "text": row.text}
        case Text():
            own["text"] = row.text
        case Labelled():
            own |= {"text": row.text, "label": row.label}
        case Tagged():
            own |= {"words": list(row.words), "tags": list(row.tags)}
    return own


def _turns(messages: Sequence[Any]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
