"""Files to rows. Records in = rows + records set aside with a reason, always."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import sha256_file, sha256_json
from domainwright.core.config import from_mapping
from domainwright.core.errors import DataError
from domainwright.core.records import Row, SetAside
from domainwright.curate import files
from domainwright.curate._columns import all_readers
from domainwright.curate._lines import Fault
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
    """Read one file; with `as_documents` also a folder of files.

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
    if path.is_dir() and chosen == "document":
        return _read_folder(path, readers, columns or {})
    return read_file(path, files.stem(path), readers, columns or {})


def read_all(
    sources: Sequence[str | Path | Mapping[str, Any]], *, as_documents: bool = False
) -> list[ReadResult]:
    """Read several files. An id that two files use is made unique by the second file's name.

    Args:
        sources: a path each, or {path, format, columns}.
    """
    results, seen = [], dict[Path, str]()
    for entry in sources:
        given = entry if isinstance(entry, Mapping) else {"path": str(entry)}
        source = from_mapping(Source, given, "data")
        own = Path(source.path).expanduser().resolve()
        if own in seen:
            raise DataError(f"{source.path} is listed twice.", "remove one of the two entries.")
        seen[own] = source.path
        results.append(
            read(
                source.path,
                format=source.format,
                columns=source.columns,
                as_documents=as_documents,
            )
        )
    return _distinct_ids(results)


def _read_folder(
    folder: Path, readers: Mapping[str, Reader], overrides: Mapping[str, str]
) -> ReadResult:
    """Every file below `folder`; a file that cannot be read is set aside, not an error."""
    results, set_aside, digests = [], list[SetAside](), dict[str, str]()
    # Sorted: the order of a folder differs between file systems.
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        digests[inside.as_posix()] = sha256_file(path)
        try:
            results.append(read_file(path, inside.as_posix(), readers, overrides))
        except DataError as error:
            fault = Fault(1, "unreadable_file", error.cause)
            set_aside.append(aside(path, fault, None))
    if not results:
        raise DataError(
            f"The folder {folder} holds no file that can be read ({len(digests)} files seen).",
            f"put documents there as {files.KNOWN}.",
        )
    results = _distinct_ids(results)
    set_aside += [entry for result in results for entry in result.set_aside]
    return ReadResult(
        file=str(folder),
        sha256=sha256_json(digests),
        format=results[0].format,
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
