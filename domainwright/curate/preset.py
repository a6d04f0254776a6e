"""Which filters run, with which settings: the defaults, a domain's preset, the user's words."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from domainwright.core.config import from_mapping
from domainwright.core.errors import UnknownName
from domainwright.curate.filters import FILTERS, Filter

DOMAINS = Path(__file__).parents[1] / "domains"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The contents of `domains/NAME/curate.yaml`."""

    use: list[str] = field(default_factory=list)
    """Filters that run besides the default ones."""
    leave_out: list[str] = field(default_factory=list)
    """Default filters that do not run."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Filter -> its settings."""


def preset(domain: str | None) -> Preset:
    """The preset of a domain; everything as it is for None and for a domain without one.

    Raises:
        UnknownName: no such domain.
        ConfigError: a key that a preset does not have.
    """
    if domain is None:
        return Preset()
    known = sorted(path.parent.name for path in DOMAINS.glob("*/domain.yaml"))
    if domain not in known:
        raise UnknownName(
            f"There is no domain called {domain!r}.", f"use one of: {', '.join(known)}."
        )
    file = DOMAINS / domain / "curate.yaml"
    if not file.is_file():
        return Preset()
    return from_mapping(Preset, yaml.safe_load(file.read_text("utf-8")) or {}, str(file))


def chosen(
    base: Preset, use: Sequence[str] = (), leave_out: Sequence[str] = ()
) -> list[tuple[str, Filter]]:
    """(name, filter) in the order in which they run. The user's words outweigh the preset's.

    Raises:
        UnknownName: no filter of that name.
        ConfigError: a setting that the filter does not have.
    """
    for name in (*base.use, *base.leave_out, *base.settings, *use, *leave_out):
        FILTERS.get(name)
    found = []
    for name in FILTERS.names():
        kind = FILTERS.get(name)
        wanted = (kind.default or name in base.use) and name not in base.leave_out
        if (wanted or name in use) and name not in leave_out:
            settings = base.settings.get(name, {})
            found.append((name, from_mapping(kind, settings, f"settings of {name}")))
    return sorted(found, key=lambda entry: (entry[1].order, entry[0]))


def described(filters: Sequence[tuple[str, Filter]]) -> dict[str, Any]:
    """Filter -> every setting, as the manifest records them."""
    return {name: asdict(found) for name, found in filters}  # type: ignore[call-overload]
