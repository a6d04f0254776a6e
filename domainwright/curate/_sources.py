"""The files that curation reads, record by record: those named, and those below named folders."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.records import Row, SetAside
from domainwright.curate import files
from domainwright.curate._columns import all_readers
from domainwright.curate._folders import found_in
from domainwright.curate._ids import Seen
from domainwright.curate._lines import Fault, reason_of
from domainwright.curate._one_file import Stream, aside

_SAMPLE_ROWS = 1_000
_SAMPLE_FILES = 200
_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    path: Path
    prefix: str
    """Begins the ids that are made."""
    lenient: bool
    """Below a named folder: where it cannot be read it is set aside, and no error."""
    as_documents: bool

    def items(self) -> Iterator[Row | SetAside]:
        """Every record, once.

        Raises:
            DataError: it cannot be read, and was named itself.
        """
        readers = all_readers(["document"] if self.as_documents else None)
        try:
            yield from Stream(self.path, self.prefix, readers, {})
        except DataError as error:
            if not self.lenient:
                raise
            yield aside(self.path, Fault(1, reason_of(error), error.cause), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything that was named, in the order given."""

    files: tuple[DataFile, ...]
    left_out: tuple[SetAside, ...]
    """Files below named folders that cannot be data."""

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files]

    @property
    def total_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)

    def sample(self) -> list[Row]:
        """The first rows of each file, of many files only of some."""
        rows = list[Row]()
        some = self.files[:: max(1, len(self.files) // _SAMPLE_FILES)]
        for file in some:
            head = itertools.islice(file.items(), max(50, _SAMPLE_ROWS // len(some)))
            rows += [row for row in head if isinstance(row, Row)]
        return rows

    def records(self) -> Iterator[Row | SetAside]:
        """Every record of every file; an id that was used before gets its place added."""
        yield from self.left_out
        seen = Seen()
        items = itertools.chain.from_iterable(file.items() for file in self.files)
        while batch := list(itertools.islice(items, _AT_ONCE)):
            before = seen.of(item.id for item in batch if isinstance(item, Row))
            for item in batch:
                yield _with_own_id(item, before, seen) if isinstance(item, Row) else item


def sources_of(paths: Sequence[Path], *, as_documents: bool = False) -> Sources:
    """The files, every one checked before work begins.

    Args:
        as_documents: read what retrieval may quote instead of rows to learn from.

    Raises:
        ConfigError: no file, or one that is listed twice.
        DataError: a file that cannot be read by its name, or a folder without one that can.
    """
    if not paths:
        raise ConfigError("No file is given.", "write dw curate FILE… -o DATASET.")
    named, left_out = list[tuple[Path, str, bool]](), list[SetAside]()
    for path in paths:
        if path.is_dir():
            found = found_in(path)
            named += [(file, inside, True) for file, inside in found.files]
            left_out += found.left_out
        else:
            files.check(path)
            named.append((path, files.stem(path), False))
    seen = set[Path]()
    for path, _, _ in named:
        own = path.resolve()
        if own in seen:
            raise ConfigError(f"{path} is listed twice.", "remove one of the two.")
        seen.add(own)
    found_files = tuple(
        DataFile(path=path, prefix=prefix, lenient=lenient, as_documents=as_documents)
        for path, prefix, lenient in named
    )
    return Sources(files=found_files, left_out=tuple(left_out))


def _with_own_id(row: Row, before: set[str], seen: Seen) -> Row:
    """The row with an id that no other has, noted in `before` and `seen`."""
    own = row.id
    if own in before:
        with_file = f"{row.id}#{Path(row.file).name}:{row.line}"
        with_path = f"{row.id}#{row.file}:{row.line}"
        taken = {*before, *seen.of([with_file])}
        own = with_path if with_file in taken else with_file
    before.add(own)
    seen.add(own)
    return row if own == row.id else replace(row, id=own)
