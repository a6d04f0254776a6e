"""Lines of a file as bytes, never more than `MAX_LINE_BYTES` of one at a time.

A file without a single newline must not fill the memory, and one bad line must
not cost the others.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from domainwright.core.errors import DataError

MAX_LINE_BYTES = 16 * 2**20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file, before anyone knows what it means."""

    line: int
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """A place in a file that gives no record, and why."""

    line: int
    reason: str
    detail: str


class Refused(DataError):
    """A file that is refused as a whole, for a reason that has a name."""

    def __init__(self, reason: str, cause: str, fix: str) -> None:
        super().__init__(cause, fix)
        # All three in args keep the error picklable.
        self.args, self.reason = (reason, cause, fix), reason


def reason_of(error: DataError) -> str:
    """The reason under which a file of a folder is set aside."""
    return error.reason if isinstance(error, Refused) else "unreadable_file"


class Lines:
    """The lines of an open file, each with its line end; the byte order mark is removed."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.number = 0
        """Line that was given out last. Counts from 1."""
        self.cut = False
        """True when that line was longer than MAX_LINE_BYTES; its rest was skipped."""

    def __iter__(self) -> Iterator[bytes]:
        while line := self.chunk():
            self.number += 1
            self.cut = len(line) > MAX_LINE_BYTES
            rest = line
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = self.chunk()
            yield line.removeprefix(_BOM) if self.number == 1 else line

    def chunk(self) -> bytes:
        """The next line, or the next 16 MiB of it; b"" at the end."""
        try:
            return self.file.readline(MAX_LINE_BYTES + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{self.path} is not a complete gzip file ({error}).",
                "copy or download the file again, or give it uncompressed.",
            ) from error


def opened(path: Path) -> BinaryIO:
    """The file's bytes, decompressed where its name ends in ".gz".

    Raises:
        DataError: the file may not be read, or is UTF-16.
    """
    try:
        file = gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # noqa: SIM115
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened ({error.strerror}).", "allow reading it, or give a copy."
        ) from error
    try:
        head = file.read(2)
        file.seek(0)
    except (OSError, EOFError, zlib.error):
        # Lines meets the same fault and names it.
        return cast(BinaryIO, file)
    if head in (b"\xff\xfe", b"\xfe\xff"):
        file.close()
        raise DataError(f"{path} is UTF-16 text.", "save it as UTF-8.")
    return cast(BinaryIO, file)


def flaw(value: Any) -> tuple[str, str] | None:
    """(reason, detail) if a string anywhere in parsed data cannot be written as UTF-8 text."""
    # A stack, not recursion: nesting is the user's to choose.
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if "\x00" in item:
                return "nul_byte", f"a NUL character in {_shown(item)}"
            try:
                item.encode()
            except UnicodeEncodeError:
                return "not_utf8", f"bytes or escapes that are no character in {_shown(item)}"
        elif isinstance(item, RepeatedKey):
            return "duplicate_key", f"the key {_shown(item.key)} stands twice in one object"
        elif isinstance(item, dict):
            stack.extend(cast(Iterable[Any], item.keys()))
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
    return None


class RepeatedKey(dict[str, Any]):
    """An object in which a key stood twice: which of the two values is meant?"""

    key = ""


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:57] + "...")
