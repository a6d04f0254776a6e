"""Which column plays which role: names made comparable, overrides, and the format they show."""

import difflib
import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from domainwright.core.errors import ConfigError, DataError
from domainwright.curate._cells import column, unpacked
from domainwright.curate._choices import letters
from domainwright.curate._place import SHARED
from domainwright.curate.readers import READERS, Reader


@functools.lru_cache(10_000)
def normal(name: str) -> str:
    """ "Answer Key" and "answer-key" are both "answer_key"."""
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


@functools.lru_cache(1_000)
def _all_normal(names: tuple[str, ...]) -> bool:
    return all(normal(name) == name for name in names)


class Renaming:
    """Records with comparable column names, the user's own choice of columns first.

    Args:
        overrides: role -> column of the file: {"question": "Frage"}.
        readers: what may read the file; their roles are the ones that can be set.
    """

    def __init__(self, overrides: Mapping[str, str], readers: Mapping[str, Reader]) -> None:
        self.taken = {_role(role, readers): normal(str(name)) for role, name in overrides.items()}
        self.hidden = {
            alias
            for role in self.taken
            for aliases in (
                SHARED.get(role, ()),
                *(r.columns.get(role, ()) for r in readers.values()),
            )
            for alias in aliases
        } | set(self.taken.values())

    def apply(self, data: dict[str, Any]) -> dict[str, Any]:
        if not self.taken and _all_normal(tuple(data)):
            return data
        record: dict[str, Any] = {}
        for name, value in data.items():
            record.setdefault(normal(name), value)
        if not self.taken:
            return record
        own = {role: record[name] for role, name in self.taken.items() if name in record}
        rest = {name: value for name, value in record.items() if name not in self.hidden}
        return rest | own

    def check(self, names: Iterable[str], where: str) -> None:
        """Raise a DataError when a column that the user named is not in the file."""
        known = {normal(name): name for name in names}
        for role, name in self.taken.items():
            if name not in known:
                near = difflib.get_close_matches(name, list(known), n=1)
                hint = f"write {known[near[0]]!r}" if near else "correct `columns:`"
                raise DataError(
                    f"{where} has no column {name!r} (for {role}); "
                    f"it has: {', '.join(known.values())}.",
                    f"{hint}.",
                )


_BOOL = re.compile(r"\s*(?:true|false)\s*", re.I)
_FIRST_SIGNS = frozenset("[{tTfF")


def shapes(record: Mapping[str, Any]) -> set[str]:
    """The columns as `Reader.matches` sees them; see `Reader`."""
    found = set(record)
    for name, value in record.items():
        if isinstance(value, str) and not (value[:1].isspace() or value[:1] in _FIRST_SIGNS):
            continue
        turns = unpacked(value)
        if isinstance(turns, list):
            found.add(f"{name}[]" if turns else f"{name}[]:empty")
            if turns and isinstance(turns[0], dict):
                found.update(f"{name}[].{key}" for key in turns[0])
            elif turns and isinstance(turns[0], (list, tuple)):
                found.add(f"{name}[][]")
        if isinstance(value, bool) or (isinstance(value, str) and _BOOL.fullmatch(value)):
            found.add(f"{name}:bool")
    return found


def matching(columns: set[str], readers: Mapping[str, Reader]) -> str | None:
    """Name of the reader of highest priority that matches."""
    ranked = sorted(readers, key=lambda name: (-readers[name].priority, name))
    return next((name for name in ranked if readers[name].matches(columns)), None)


def used(reader: Reader, seen: Counter[str]) -> dict[str, str]:
    """Role -> column, for the columns that most records have; `seen` counts them."""
    roles = {**SHARED, **reader.columns}
    found = {role: column(seen, names) for role, names in roles.items()}
    if found.get("choices") is None and "choices" in reader.needs:
        found["choices"] = ", ".join(letters(seen)) or None
    return {role: name for role, name in found.items() if name is not None}


def unrecognised(where: str, names: Iterable[str], readers: Mapping[str, Reader]) -> DataError:
    known = "; ".join(f"{name} ({', '.join(r.needs)})" for name, r in sorted(readers.items()))
    return DataError(
        f"{where} has the columns {', '.join(names)}; they fit no known data format.",
        "say what they are in the study file, such as {path: "
        f"{where}, format: prompt_completion, columns: {{question: COLUMN, answer: COLUMN}}}}. "
        f"Formats and what they need: {known}.",
    )


def all_readers(names: Iterable[str] | None = None) -> dict[str, Reader]:
    """A reader of each format, without "document": that one is only used when asked for."""
    chosen = names or [name for name in READERS.names() if name != "document"]
    return {name: READERS.get(name)() for name in chosen}


def _role(name: str, readers: Mapping[str, Reader]) -> str:
    roles = {*SHARED, *(role for reader in readers.values() for role in reader.columns)}
    if name in roles:
        return name
    for reader in sorted(readers.values(), key=lambda reader: -reader.priority):
        for role, aliases in reader.columns.items():
            if name in aliases:
                return role
    near = difflib.get_close_matches(name, sorted(roles), n=1)
    fix = f"write {near[0]!r}" if near else f"known parts: {', '.join(sorted(roles))}"
    raise ConfigError(f"`columns:` sets {name!r}, which is no part of a row.", f"{fix}.")
