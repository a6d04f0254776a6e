"""Files to rows. Records in = rows + records set aside with a reason, always."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import sha256_file, sha256_json
from domainwright.core.config import from_mapping
from domainwright.core.errors import DataError
from domainwright.core.records import Row
from domainwright.curate import files
from domainwright.curate._columns import all_readers
from domainwright.curate._folders import found_in, nothing_in
from domainwright.curate._lines import Fault, reason_of
from domainwright.curate._one_file import ReadResult, aside, read_file
from domainwright.curate.readers import Reader

__all__ = ["ReadResult", "Source", "read", "read_all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One entry of `data:` in a study file."""

    path: str
    format: str | None = None
    columns: dict[str, str] = field(default_factory=dict)


def read(
    path: str | Path,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    as_documents: bool = False,
) -> ReadResult:
    """Read one file, or every file below a folder.

    Args:
        format: name of a reader, where the columns do not tell or tell wrongly.
        columns: role -> column, such as {"question": "Frage"}.
        as_documents: read what retrieval may quote instead of rows to learn from.

    Raises:
        DataError: nothing can be read, no format fits, or no record was usable.
    """
    path = Path(path).expanduser()
    chosen = format or ("document" if as_documents else None)
    readers = all_readers([chosen] if chosen else None)
    if path.is_dir():
        return _read_folder(path, readers, columns or {})
    return read_file(path, files.stem(path), readers, columns or {})


def read_all(
    sources: Sequence[str | Path | Mapping[str, Any]], *, as_documents: bool = False
) -> list[ReadResult]:
    """Read several files. An id that two files use is made unique by the second file's name.

    Args:
        sources: a path each, of a file or a folder, or {path, format, columns}.
    """
    results, seen = [], dict[Path, str]()
    for entry in sources:
        given = entry if isinstance(entry, Mapping) else {"path": str(entry)}
        source = from_mapping(Source, given, "data")
        for file in _files_of(Path(source.path).expanduser()):
            if file in seen:
                raise _twice(file, source.path, seen[file])
            seen[file] = source.path
        results.append(
            read(
                source.path,
                format=source.format,
                columns=source.columns,
                as_documents=as_documents,
            )
        )
    return _distinct_ids(results)


def _files_of(path: Path) -> list[Path]:
    """The files that an entry stands for."""
    if not path.is_dir():
        return [path.resolve()]
    return [file.resolve() for file, _ in found_in(path).files]


def _twice(file: Path, entry: str, before: str) -> DataError:
    if Path(entry).is_dir() or Path(before).is_dir():
        return DataError(
            f"{file} is listed twice: by {before} and by {entry}.",
            "remove one of the two entries, or move the file out of the folder.",
        )
    return DataError(f"{entry} is listed twice.", "remove one of the two entries.")


def _read_folder(
    folder: Path, readers: Mapping[str, Reader], overrides: Mapping[str, str]
) -> ReadResult:
    """Every file below `folder`; a file that cannot be read is set aside, not an error."""
    found = found_in(folder)
    results, set_aside = list[ReadResult](), list(found.left_out)
    digests = {e.file.removeprefix(str(folder)): e.reason for e in found.left_out}
    for path, inside in found.files:
        digests[inside] = sha256_file(path)
        try:
            results.append(read_file(path, inside, readers, overrides))
        except DataError as error:
            set_aside.append(aside(path, Fault(1, reason_of(error), error.cause), None))
    if not results:
        raise nothing_in(folder, found.all, tuple(set_aside))
    results = _distinct_ids(results)
    set_aside += [entry for result in results for entry in result.set_aside]
    return ReadResult(
        file=str(folder),
        sha256=sha256_json(digests),
        format=", ".join(dict.fromkeys(result.format for result in results)),
        columns=results[0].columns,
        records=len(set_aside) + sum(len(result.rows) for result in results),
        rows=[row for result in results for row in result.rows],
        set_aside=set_aside,
        notes=dict(sum((Counter(result.notes) for result in results), Counter[str]())),
    )


def _distinct_ids(results: list[ReadResult]) -> list[ReadResult]:
    seen = set[str]()
    distinct = []
    for result in results:
        grouped = "group" in result.columns
        rows = [_renamed(row, grouped) if row.id in seen else row for row in result.rows]
        seen.update(row.id for row in rows)
        distinct.append(replace(result, rows=rows))
    return distinct


def _renamed(row: Row, grouped: bool) -> Row:
    own = f"{row.file}:{row.id}"
    # A group that the file gives means the same document in every file. A group made
    # from the id does not: two files that both count from 1 share nothing.
    return replace(row, id=own, group=row.group if grouped else own)
