"""Settings are frozen dataclasses; files hold values and registry names only.

A misspelt key is never ignored: the run would silently use the default.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from domainwright.core.errors import ConfigError

C = TypeVar("C")

KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "settings, as `name: value` lines",
}
"""What a person calls a type."""


def from_mapping(cls: type[C], data: Mapping[str, Any], where: str) -> C:
    """Build the dataclass `cls` from parsed YAML or JSON, nested dataclasses included.

    Args:
        where: file and section, for messages: "study.yaml train".

    Raises:
        ConfigError: an unknown key, a missing key or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{where} is {data!r}, not a set of settings.", "write `name: value` lines there."
        )
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), list(fields), n=1)
            fix = f"write {near[0]!r}" if near else f"known settings: {', '.join(fields)}"
            raise ConfigError(f"{where} has no setting {key!r}.", f"{fix}.")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in data:
            raise ConfigError(f"{where} lacks the setting {name!r}.", f"add a line `{name}: …`.")
    values = {key: _convert(hints[key], value, f"{where} {key}") for key, value in data.items()}
    return cls(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint` asks, or a ConfigError. int passes for float; bool never for a number."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [a for a in arguments if a is not type(None)]
        for option in options[:-1]:
            try:
                return _convert(option, value, where)
            except ConfigError:
                continue
        return _convert(options[-1], value, where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise ConfigError(
            f"{where} is {value!r}.", f"use one of: {', '.join(map(str, arguments))}."
        )
    if origin in (tuple, list):
        items = value if isinstance(value, (list, tuple)) else [value]
        return origin(_convert(arguments[0], item, where) for item in items)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_mapping(hint, value, where)
    if origin in (dict, Mapping) or hint is dict:
        if isinstance(value, Mapping):
            inner = arguments[1] if arguments else Any
            return {k: _convert(inner, v, f"{where} {k}") for k, v in value.items()}
    elif hint is Any:
        return value
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif (
        isinstance(hint, type)
        and isinstance(value, hint)
        and (hint is bool or (value is not True and value is not False))
    ):
        return value
    name = KINDS.get(origin or hint) or getattr(hint, "__name__", str(hint))
    # YAML 1.1 reads "1e-3" as text; say so instead of "expected float".
    hint_text = " (write 1.0e-3, YAML reads 1e-3 as text)" if hint is float else ""
    raise ConfigError(f"{where} is {value!r}.", f"give {name}{hint_text}.")


def as_mapping(settings: Any) -> dict[str, Any]:
    """The settings as plain data, every default written out: what the manifest records."""
    return dataclasses.asdict(settings)
