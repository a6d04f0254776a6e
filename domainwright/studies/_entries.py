"""One entry of `data:`, and the part of its rows that the study uses."""

from domainwright.core.errors import ConfigError
from domainwright.core.records import Row, SetAside
from domainwright.core.seeds import share


def as_source(entry: str | dict) -> str | dict:
    """The entry without what is the study's own."""
    if isinstance(entry, str):
        return entry
    return {k: v for k, v in entry.items() if k not in ("share", "task")}


def shared(rows: list[Row], entry: str | dict, seed: int) -> tuple[list[Row], list[SetAside]]:
    """The share of a file's groups that the study uses; the rest is set aside."""
    wanted = 1.0 if isinstance(entry, str) else entry.get("share", 1.0)
    number = isinstance(wanted, (int, float)) and not isinstance(wanted, bool)
    if not number or not 0 < wanted <= 1:
        raise ConfigError(f"data has a share of {wanted!r}.", "give a number above 0, at most 1.")
    kept = [row for row in rows if share(seed, f"share {row.group}") < wanted]
    kept_ids = {row.id for row in kept}
    return kept, [
        SetAside.of(row, "not_in_share", f"the study uses {wanted:.0%} of this file")
        for row in rows
        if row.id not in kept_ids
    ]
