"""Work in pieces on the disk, so that memory does not grow with the data and a kill costs a piece.

A piece is `00012.chat.arrow` (kept rows of that kind, as columns), `00012.json` (what was dropped
and changed) and `00012.bin` (the order of the kinds, keys and sketches). The last is written
last: a piece without it does not exist. Every file gets its name when it is whole, so two
processes that write one piece, as after a kill, write the same and harm nothing.
"""

import bisect
import contextlib
import functools
import itertools
import json
import operator
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from domainwright.core.artifacts import sha256_json, write_json
from domainwright.core.records import Row
from domainwright.curate._sketch import BANDS, BINS, Sketch, sketched
from domainwright.curate._table import KINDS, columns, row_at, rows_of
from domainwright.curate.content import content
from domainwright.curate.copies import Keys, key_table

CHUNK_ROWS = 1_000
_CACHED_ROWS = 20_000
_OPEN_PIECES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What became of one run of records."""

    records: int
    dropped: list[dict[str, Any]]
    changed: list[dict[str, Any]]
    secrets: dict[str, dict[str, str]]
    """Row id -> placeholder -> what stood there; empty unless the user asked for the map."""
    kinds: dict[str, int]
    """Kind of row -> kept rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllKeys:
    """Keys of the kept rows of all pieces, in order; mapped from files."""

    key_T6: Keys
    sketch: Sketch


@dataclass(frozen=True, slots=True)
class _Opened:
    """The kept rows of a piece, mapped; kinds by their number."""

    kind_T: NDArray[np.uint8]
    tables: dict[int, pa.Table]
    columns: dict[int, dict[str, pa.ChunkedArray]]


class Workshop:
    """The folder of the pieces; it lives beside the dataset until that is written.

    `begin` it, then `write` the pieces from as many processes as there are, then read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cache: OrderedDict[int, Row] = OrderedDict()
        self._starts = list[int]()
        self._opened = functools.lru_cache(_OPEN_PIECES)(self._open)

    def begin(self, key: Mapping[str, Any]) -> None:
        """Throw away pieces that depend on anything but `key`."""
        mark, digest = self.folder / "key.json", sha256_json(key)
        if not mark.is_file() or json.loads(mark.read_text("utf-8")) != digest:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The lock of the folder lies in it too, and is held.
            for path in self.folder.iterdir():
                if path.name != ".lock":
                    path.unlink()
            write_json(mark, digest)

    def has(self, number: int) -> bool:
        return self._path(number, "bin").is_file()

    def write(self, number: int, rows: Sequence[Row], piece: Piece) -> None:
        kind_T = np.array([KINDS.index(type(row)) for row in rows], dtype=np.uint8)
        for kind in np.unique(kind_T).tolist():
            table = columns([row for row in rows if type(row) is KINDS[kind]])
            with (
                self._whole(self._arrow(number, kind)) as file,
                pa.ipc.new_file(file, table.schema) as writer,
            ):
                writer.write_table(table)
        fields = {name: getattr(piece, name) for name in Piece.__slots__}
        with self._whole(self._path(number, "json")) as file:
            file.write(json.dumps(fields, ensure_ascii=False).encode())
        sketch = sketched([content(row) for row in rows])
        with self._whole(self._path(number, "bin")) as file:
            for array in (kind_T, key_table(rows), sketch.signature_TK, sketch.key_BT):
                np.save(file, array)

    def read(self, number: int) -> Piece:
        return Piece(**json.loads(self._path(number, "json").read_text("utf-8")))

    def tables(self, number: int) -> dict[type[Row], tuple[NDArray[np.int64], pa.Table]]:
        """Kind -> (places of its rows in the piece, counted from 0, and the rows as a table)."""
        opened = self._opened(number)
        return {
            KINDS[kind]: (np.flatnonzero(opened.kind_T == kind), table)
            for kind, table in opened.tables.items()
        }

    def rows(self, number: int) -> list[Row]:
        """The kept rows of a piece."""
        found = [
            pair
            for kind, (places, table) in self.tables(number).items()
            for pair in zip(places.tolist(), rows_of(kind, table), strict=True)
        ]
        return [row for _, row in sorted(found, key=operator.itemgetter(0))]

    def keys(self, pieces: int) -> AllKeys:
        """Keys and sketches of all rows, in files that are mapped."""
        sizes = list[int]()
        for number in range(pieces):
            with open(self._path(number, "bin"), "rb") as file:
                sizes.append(len(np.load(file)))
        self._starts = [0, *itertools.accumulate(sizes)][:-1]
        T = sum(sizes)
        key_T6 = self._mapped("keys.bin", np.uint64, (T, 6))
        signature_TK = self._mapped("signatures.bin", np.uint32, (T, BINS))
        key_BT = self._mapped("bands.bin", np.uint64, (BANDS, T))
        for number, (start, size) in enumerate(zip(self._starts, sizes, strict=True)):
            with open(self._path(number, "bin"), "rb") as file:
                np.load(file)
                key_T6[start : start + size] = np.load(file)
                signature_TK[start : start + size] = np.load(file)
                key_BT[:, start : start + size] = np.load(file)
        return AllKeys(key_T6=key_T6, sketch=Sketch(signature_TK, key_BT))

    def row(self, number: int) -> Row:
        """The row of a number, counted over all pieces; call `keys` first."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        piece = bisect.bisect_right(self._starts, number) - 1
        place = number - self._starts[piece]
        opened = self._opened(piece)
        kind_T = opened.kind_T
        kind = int(kind_T[place])
        at = int(np.count_nonzero(kind_T[:place] == kind))
        row = row_at(KINDS[kind], opened.columns[kind], at)
        self._cache[number] = row
        if len(self._cache) > _CACHED_ROWS:
            self._cache.popitem(last=False)
        return row

    def close(self) -> None:
        self._opened.cache_clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self, number: int) -> "_Opened":
        with open(self._path(number, "bin"), "rb") as file:
            kind_T = np.load(file)
        tables = {
            kind: pa.ipc.open_file(pa.memory_map(str(self._arrow(number, kind)))).read_all()
            for kind in np.unique(kind_T).tolist()
        }
        named = {
            kind: dict(zip(table.column_names, table.columns, strict=True))
            for kind, table in tables.items()
        }
        return _Opened(kind_T, tables, named)

    def _mapped(self, name: str, kind: type[Any], shape: tuple[int, int]) -> NDArray[Any]:
        # A file of no bytes cannot be mapped.
        return (
            np.memmap(self.folder / name, kind, "w+", shape=shape)
            if shape[0] * shape[1]
            else (np.empty(shape, dtype=kind))
        )

    @contextlib.contextmanager
    def _whole(self, path: Path) -> Iterator[BinaryIO]:
        """A file that has its name when everything is written."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)

    def _arrow(self, number: int, kind: int) -> Path:
        return self._path(number, f"{KINDS[kind].__name__.lower()}.arrow")

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"{number:06d}.{ending}"
