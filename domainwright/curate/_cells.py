"""The values of a record's columns, or the reason why there is none."""

import ast
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

_PYTHON_CHARS = 1_000_000
_PACKED = re.compile(r"\s*[\[{]")


class Unusable(Exception):
    """This record cannot become a row. Caught by `read`; it ends as a SetAside."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def column(record: Iterable[str], names: tuple[str, ...]) -> str | None:
    """The first of `names` that the record has."""
    for name in names:
        if name in record:
            return name
    return None


def pick(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of `names` that the record has; None where it has none."""
    found = column(record, names)
    return None if found is None else record[found]


def text(record: Mapping[str, Any], names: tuple[str, ...], empty: str) -> str:
    """The text in the first of `names`.

    Args:
        empty: the reason when there is nothing in it: "empty_answer".

    Raises:
        Unusable: no such column, nothing in it, or no text.
    """
    found = column(record, names)
    if found is None:
        raise Unusable("missing_column", f"none of the columns {', '.join(names)}")
    return as_text(record[found], empty, found)


def optional(record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Like `text`, but "" where the column is missing or empty."""
    value = pick(record, names)
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    return as_text(value, "empty", column(record, names) or names[0])


def as_text(value: Any, empty: str, name: str) -> str:
    """`value` as text; a number is text of the answers "42" and "0.5"."""
    # NaN is how pandas writes an empty cell.
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise Unusable(empty, f"{name} holds nothing")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise Unusable("wrong_type", f"{name} is {kind(value)}, not text")
    if not value.strip():
        raise Unusable(empty, f"{name} is {'empty' if not value else 'blank'}")
    return value


def unpacked(value: Any) -> Any:
    """A list or object that a table holds as text, as JSON or as Python writes it."""
    if not isinstance(value, str) or not _PACKED.match(value):
        return value
    try:
        return json.loads(value, strict=False)
    except (ValueError, RecursionError):
        pass
    # pandas writes a list into a CSV cell with Python's quotes.
    if len(value) > _PYTHON_CHARS:
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return value


def kind(value: Any) -> str:
    """What a value is, in words, never its whole contents."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    names = {"dict": "an object", "list": "a list", "bytes": "bytes"}
    own = type(value).__name__
    return names.get(own, f"a {own}")
