"""Where a record stands, and what every row takes from it: id, group, date, topic."""

import datetime
import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from domainwright.curate._cells import column, pick

SHARED: dict[str, tuple[str, ...]] = {
    "id": ("id", "uid", "_id", "uuid", "qid", "question_id", "example_id", "row_id", "key"),
    # People before documents: one patient has many documents. Never "source": it
    # names a collection, and all rows would be one group.
    "group": (
        *("group", "group_id", "patient", "patient_id", "case", "case_id", "contract"),
        *("contract_id", "document_id", "doc_id", "source_document"),
    ),
    "date": ("date", "created", "created_at", "timestamp", "published"),
    "topic": ("topic", "category", "subject"),
}
_ISO_PART = re.compile(r"\d{4}(-\d{2})?")


@dataclass(slots=True)
class Place:
    """Where one record stands."""

    file: str
    prefix: str
    """Begins the ids that are made: the file's name without endings."""
    line: int
    notes: Counter[str] = field(default_factory=Counter)
    """Counts what a reader changed without setting the record aside."""


def given_id(record: Mapping[str, Any]) -> str | None:
    return _word(pick(record, SHARED["id"]))


@functools.lru_cache(1_000)
def _shared(names: tuple[str, ...]) -> list[str | None]:
    """Of the columns `names` those with id, group, date and topic."""
    return [column(names, SHARED[role]) for role in ("id", "group", "date", "topic")]


def origin(record: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The fields of `Row`, as keyword arguments."""
    id, group, written, topic = [name and record[name] for name in _shared(tuple(record))]
    own = _word(id) or f"{place.prefix}:{place.line}"
    date = _iso(written)
    if date is None and written not in (None, ""):
        place.notes["date_not_iso"] += 1
    return {
        "id": own,
        "group": _word(group) or own,
        "file": place.file,
        "line": place.line,
        "date": date,
        "topic": _word(topic),
    }


def _word(value: Any) -> str | None:
    """A name as text; None for nothing. 7.0 is 7: pandas makes ids floats."""
    if isinstance(value, str) or value is None:
        return (value and value.strip()) or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _iso(value: Any) -> str | None:
    """ISO 8601, or None where the order of day and month would be a guess."""
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            # One zone, because dates are compared as text.
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        return str(value.isoformat())
    if isinstance(value, datetime.date):
        return str(value.isoformat())
    if isinstance(value, int) and 1000 <= value <= 9999:
        return str(value)
    if not isinstance(value, str):
        return None
    text = value.strip().replace("/", "-")
    if _ISO_PART.fullmatch(text):
        return text
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        pass
    try:
        return _iso(datetime.datetime.fromisoformat(text))
    except ValueError:
        return None
