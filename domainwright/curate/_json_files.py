"""Records of JSON lines, of a JSON array, and of an object that holds one array."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from domainwright.core.errors import DataError
from domainwright.curate._lines import Fault, Lines, Record, RepeatedKey, flaw, opened

CUT = "the line is cut"


def json_lines(path: Path) -> Iterator[Record | Fault]:
    """One JSON object per line; blank lines are no records."""
    if _starts_with(path, b"["):
        # Exports named .jsonl that are one array are common; a first line that is
        # a list is a fault of that line only.
        try:
            whole = _parse(_text(path))
        except (ValueError, RecursionError):
            whole = None
        if isinstance(whole, list) and any(isinstance(item, dict) for item in whole):
            yield from _elements(whole)
            return
    with opened(path) as file:
        lines = Lines(file, path)
        for raw in lines:
            if raw.strip():
                yield _line(raw, lines.number, lines.cut)


def json_document(path: Path) -> Iterator[Record | Fault]:
    """A file called .json: an array, an object that holds one array, or JSON lines after all."""
    if _starts_with(path, b"{") and _first_line_is_an_object(path):
        yield from json_lines(path)
        return
    try:
        whole = _parse(_text(path))
    except (ValueError, RecursionError) as error:
        if _some_line_is_an_object(path):
            yield from json_lines(path)
            return
        raise DataError(
            f"{path} is not valid JSON ({_first_words(error)}).",
            "correct the file there, or save it as JSON lines: one object per line, .jsonl.",
        ) from error
    yield from _elements(_records_in(whole, path))


def _line(raw: bytes, number: int, cut: bool) -> Record | Fault:
    if cut:
        return Fault(number, "line_too_long", "the line is longer than 16 MiB")
    if b"\x00" in raw:
        return Fault(number, "nul_byte", f"a NUL byte at position {raw.index(0) + 1} of the line")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = raw[error.start]
        return Fault(number, "not_utf8", f"byte 0x{found:02x} at position {error.start + 1}")
    try:
        data = _parse(text)
    except (ValueError, RecursionError) as error:
        # A whole object ends with its bracket; what else is wrong with one is no cut.
        cut_off = "" if text.rstrip().endswith("}") else f"; {CUT}"
        return Fault(number, "not_json", _first_words(error) + cut_off)
    # A whole character or none: what is wrong with a text is then in an escape.
    return _checked(data, number, plain=not any(escape in raw for escape in _NO_CHARACTER))


def _elements(items: list[Any]) -> Iterator[Record | Fault]:
    for position, item in enumerate(items, 1):
        yield _checked(item, position)


_NO_CHARACTER = (b"\\u0000", b"\\ud", b"\\uD")
_NESTED = {dict, list, RepeatedKey}.__contains__


def _checked(data: Any, number: int, plain: bool = False) -> Record | Fault:
    """The record, or what is wrong with it.

    Args:
        plain: no text in it can hold what is no character.
    """
    if not isinstance(data, dict):
        return Fault(number, "not_an_object", f"a {type(data).__name__}, not {{name: value}}")
    if type(data) is dict and plain and not any(map(_NESTED, map(type, data.values()))):
        return Record(number, data)
    found = flaw(data)
    return Fault(number, *found) if found else Record(number, data)


def _parse(text: str) -> Any:
    try:
        data, end = _scan(text, 0)
        if not text[end:].strip(" \t\r\n"):
            return data
    except StopIteration:
        pass
    # Blanks before it, more behind it, or no JSON: this says what and where.
    return _DECODER.decode(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) == len(pairs):
        return data
    repeated = RepeatedKey(data)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            repeated.key = key
        seen.add(key)
    return repeated


# strict=False: a raw tab inside a string is common and harmless. NaN is how pandas writes an
# empty cell.
_DECODER = json.JSONDecoder(
    strict=False, object_pairs_hook=_object, parse_constant=lambda name: None
)
_scan = _DECODER.scan_once  # type: ignore[attr-defined]


def _records_in(whole: Any, path: Path) -> list[Any]:
    if isinstance(whole, list):
        return whole
    if not isinstance(whole, dict):
        raise DataError(
            f"{path} holds one {type(whole).__name__}, no records.",
            "give an array of objects, or JSON lines.",
        )
    arrays = {
        key: value
        for key, value in whole.items()
        if isinstance(value, list) and any(isinstance(item, dict) for item in value)
    }
    if len(arrays) > 1:
        raise DataError(
            f"{path} holds several arrays: {', '.join(arrays)}.", "save one of them as a file."
        )
    for items in arrays.values():
        # One conversation saved alone also holds one array: its turns.
        if not any(isinstance(item, dict) and item.keys() & {"role", "from"} for item in items):
            return items
    return [whole]


def _text(path: Path) -> str:
    with opened(path) as file:
        # Bytes that are no UTF-8 stay recognisable, so only their record is set aside.
        data = b"".join(iter(Lines(file, path).chunk, b""))
        return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _starts_with(path: Path, byte: bytes) -> bool:
    with opened(path) as file:
        return next((raw.lstrip()[:1] for raw in Lines(file, path) if raw.strip()), b"") == byte


def _first_line_is_an_object(path: Path) -> bool:
    """True when the first line is a whole object and more lines follow."""
    with opened(path) as file:
        lines = (raw for raw in Lines(file, path) if raw.strip())
        first = isinstance(_line(next(lines), 1, False), Record)
        return first and next(lines, None) is not None


def _some_line_is_an_object(path: Path) -> bool:
    with opened(path) as file:
        lines = [raw for raw, _ in zip(Lines(file, path), range(20), strict=False)]
    return len(lines) > 1 and any(isinstance(_line(raw, 1, False), Record) for raw in lines)


def _first_words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)[:120]
