"""Any data file to records: one dictionary each, or a fault with its line and reason.

What a record means is decided elsewhere (`readers`). Here a broken line costs that
line; only a file that cannot be read at all is an error.
"""

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path

from domainwright.core.errors import DataError
from domainwright.curate._conll import conll
from domainwright.curate._documents import html_page, word_document
from domainwright.curate._json_files import json_document, json_lines
from domainwright.curate._lines import Fault, Record
from domainwright.curate._markdown import markdown
from domainwright.curate._pdf import pdf_pages
from domainwright.curate._plain import plain_text
from domainwright.curate._tables import comma_separated, parquet, tab_separated

_BY_EXTENSION: dict[str, Callable[[Path], Iterator[Record | Fault]]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_document,
    ".csv": comma_separated,
    ".tsv": tab_separated,
    ".parquet": parquet,
    **dict.fromkeys((".conll", ".bio", ".iob", ".iob2"), conll),
    ".txt": plain_text,
    ".md": markdown,
    ".html": html_page,
    ".htm": html_page,
    ".docx": word_document,
    ".pdf": pdf_pages,
}
KNOWN = f"{', '.join(_BY_EXTENSION)} (text formats also with .gz)"


def extension(path: Path) -> str:
    """The ending that decides, in lower case: ".jsonl" for "answers.JSONL.gz"."""
    ending = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if ending == ".gz" else ending


def stem(path: Path) -> str:
    """The file's name without its endings: "answers" for "answers.jsonl.gz"."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).stem


def readable(path: Path) -> bool:
    """True when the file's name promises a format that `records` knows."""
    packed = path.suffix.lower() == ".gz"
    whole = (".parquet", ".docx", ".html", ".htm", ".pdf")
    return extension(path) in _BY_EXTENSION and not (packed and extension(path) in whole)


def records(path: Path) -> Iterator[Record | Fault]:
    """The records of a file, one at a time. Blank lines are no records.

    Raises:
        DataError: no such file, a folder, an unknown ending, an empty file, or a
            file that is broken as a whole.
    """
    check(path)
    return _at_least_one(_BY_EXTENSION[extension(path)](path), path)


def check(path: Path) -> None:
    """Raise a DataError unless `path` is a file that can be read by its name."""
    if not path.exists():
        raise DataError(f"There is no file {path}.", _near(path))
    if path.is_dir():
        raise DataError(f"{path} is a folder.", "give one file of it, or several.")
    if not path.is_file():
        raise DataError(f"{path} is no regular file.", "give a file.")
    if not readable(path):
        raise DataError(
            f"{path} ends in {path.suffix or 'nothing'!r}, which is no known data format.",
            f"convert it to one of: {KNOWN}.",
        )
    if path.stat().st_size == 0:
        raise _empty(path)


def _at_least_one(found: Iterator[Record | Fault], path: Path) -> Iterator[Record | Fault]:
    first = next(found, None)
    if first is None:
        raise _empty(path)
    yield first
    yield from found


def _empty(path: Path) -> DataError:
    return DataError(f"{path} is empty: it holds no record.", f"give a file with data: {KNOWN}.")


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"correct the path; the folder {folder} does not exist either."
    names = [other.name for other in folder.iterdir() if other.is_file()]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"write {str(folder / near[0])!r}." if near else f"correct the path; known: {KNOWN}."
