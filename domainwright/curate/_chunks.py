"""Work in pieces on the disk, so that memory does not grow with the data and a kill costs a piece.

A piece is three files: `00012.rows` (kept rows, one JSON each), `00012.json` (what was dropped
and changed) and `00012.npz` (keys and signatures). The last is written last, under its
name at once: a piece without it does not exist.
"""

import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from domainwright.core.artifacts import sha256_json, write_json
from domainwright.core.records import Row
from domainwright.curate._sketch import BINS, Signatures, signatures
from domainwright.curate.content import content
from domainwright.curate.copies import Keys, keys_of
from domainwright.curate.dataset import row_as_json, row_from_json

CHUNK_ROWS = 1_000
_CACHED_ROWS = 20_000


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
    """Keys of the kept rows of all pieces, in order."""

    exact_T2: Keys
    question_T2: Keys
    judgement_T2: Keys
    signature_TK: Signatures
    """Mapped from a file."""
    bounds: list[int]
    """Row n lies in the piece p with bounds[p] <= n < bounds[p + 1]."""


class Workshop:
    """The folder of the pieces; it lives beside the dataset until that is written.

    Args:
        key: everything the pieces depend on. Pieces of another key are thrown away.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        digest = sha256_json(key)
        mark = folder / "key.json"
        if not mark.is_file() or json.loads(mark.read_text("utf-8")) != digest:
            folder.mkdir(parents=True, exist_ok=True)
            # The lock of the folder lies in it too, and is held.
            for path in folder.iterdir():
                if path.name != ".lock":
                    path.unlink()
            write_json(mark, digest)
        self._cache: OrderedDict[int, Row] = OrderedDict()
        self._places: list[tuple[int, np.ndarray]] = []

    def has(self, number: int) -> bool:
        return self._path(number, "npz").is_file()

    def write(self, number: int, rows: Sequence[Row], piece: Piece) -> None:
        lines = [json.dumps(row_as_json(row), ensure_ascii=False).encode() for row in rows]
        with open(self._path(number, "rows"), "wb") as file:
            file.writelines(line + b"\n" for line in lines)
        fields = {name: getattr(piece, name) for name in Piece.__slots__}
        self._path(number, "json").write_text(json.dumps(fields, ensure_ascii=False), "utf-8")
        keys = [keys_of(row) for row in rows]
        table = np.frombuffer(b"".join(b"".join(key) for key in keys), dtype=np.uint64)
        # Not ".npz" yet: that name says that the piece is whole.
        temporary = self._path(number, "part")
        with open(temporary, "wb") as file:
            np.savez(
                file,
                offsets=np.cumsum([0, *(len(line) + 1 for line in lines)]),
                keys=table.reshape(len(rows), 6),
                signatures=signatures([content(row) for row in rows]),
            )
        os.replace(temporary, self._path(number, "npz"))

    def read(self, number: int) -> Piece:
        return Piece(**json.loads(self._path(number, "json").read_text("utf-8")))

    def rows(self, number: int) -> Iterator[Row]:
        with open(self._path(number, "rows"), encoding="utf-8", newline="\n") as file:
            for line in file:
                yield row_from_json(json.loads(line))

    def keys(self, pieces: int) -> AllKeys:
        """Keys in memory (48 bytes a row); signatures in one file that is mapped."""
        tables, bounds, path = list[np.ndarray](), [0], self.folder / "signatures.bin"
        self._places.clear()
        with open(path, "wb") as file:
            for number in range(pieces):
                with np.load(self._path(number, "npz")) as stored:
                    tables.append(stored["keys"])
                    self._places.append((bounds[-1], stored["offsets"]))
                    file.write(np.ascontiguousarray(stored["signatures"]).tobytes())
                bounds.append(bounds[-1] + len(tables[-1]))
        table = np.concatenate([*tables, np.empty((0, 6), np.uint64)]).astype(np.uint64)
        shape = (bounds[-1], BINS)
        empty = np.empty(shape, dtype=np.uint32)
        mapped = np.memmap(path, np.uint32, "r", shape=shape) if bounds[-1] else empty
        return AllKeys(
            exact_T2=table[:, 0:2],
            question_T2=table[:, 2:4],
            judgement_T2=table[:, 4:6],
            signature_TK=mapped,
            bounds=bounds,
        )

    def row(self, number: int) -> Row:
        """The row of a number, counted over all pieces; call `keys` first."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        starts = [start for start, _ in self._places]
        piece = int(np.searchsorted(starts, number, side="right")) - 1
        start, offsets = self._places[piece]
        begin, end = offsets[number - start : number - start + 2]
        with open(self._path(piece, "rows"), "rb") as file:
            file.seek(begin)
            row = row_from_json(json.loads(file.read(end - begin)))
        self._cache[number] = row
        if len(self._cache) > _CACHED_ROWS:
            self._cache.popitem(last=False)
        return row

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"{number:06d}.{ending}"
