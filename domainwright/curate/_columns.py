"""Which column plays which role: names made comparable, overrides, and the format they show."""

import difflib
import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
_TEXT_WORDS = 3
"""Words of a text, on average: fewer are a label, a name or a number."""
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


def unrecognised(
    where: str, records: Sequence[Mapping[str, Any]], readers: Mapping[str, Reader]
) -> DataError:
    """Why a file cannot be read, and what its columns look like.

    Args:
        records: some of it, with its own names of columns.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    known = "; ".join(f"{name} ({', '.join(r.needs)})" for name, r in sorted(readers.items()))
    kind, roles = _guessed(records, names)
    columns = ", ".join(f"{role}: {name}" for role, name in roles.items())
    return DataError(
        f"{where} has the columns {', '.join(names)}; they fit no known data format.",
        f"say what they are in the study file, such as {{path: {where}, format: {kind}, columns: "
        f"{{{columns}}}}}. Formats and what they need: {known}.",
    )


def _guessed(
    records: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """(format, role -> column) that such columns may be: a label comes again and again."""
    texts = {
        name: [value for record in records if isinstance(value := record.get(name), str)]
        for name in names
    }
    long = sorted(
        (name for name in names if texts[name] and _words(texts[name]) >= _TEXT_WORDS),
        key=lambda name: -_words(texts[name]),
    )
    labels = [
        name
        for name in names
        if name not in long[:1]
        and 2 <= len({*texts[name]}) <= len(texts[name]) / 3
        and _words(texts[name]) < 2 * _TEXT_WORDS
    ]
    if long and labels:
        return "labelled", {"text": long[0], "label": labels[0]}
    if len(long) > 1:
        first, second = sorted(long[:2], key=list(names).index)
        return "prompt_completion", {"question": first, "answer": second}
    if long:
        return "text", {"text": long[0]}
    return "prompt_completion", {"question": "COLUMN", "answer": "COLUMN"}


def _words(texts: Sequence[str]) -> float:
    return sum(len(text.split()) for text in texts) / len(texts)


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
