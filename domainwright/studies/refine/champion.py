"""`champion.json`: which adapter of a run is in force, which were before, and how it came about.

An adapter that the run trained itself is called by its path, such as `trials/lora/adapter`. Those
that took its place lie in `refine/round-N/trial/adapter`; the last of the line answers.
"""

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from domainwright.core.artifacts import read_manifest, write_json
from domainwright.core.config import from_mapping
from domainwright.core.errors import ConfigError, DataError
from domainwright.core.lock import lock
from domainwright.studies._choice import parts
from domainwright.studies._folder import ours

FILE = "champion.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of the champion."""

    when: str
    """UTC, ISO 8601."""
    what: str
    """"accepted" or "rolled back"."""
    round: int
    """In which the adapter that came or went was trained."""
    adapter: str
    """In force since then, relative to the run's folder."""
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Champions:
    """The contents of champion.json."""

    lines: dict[str, list[str]] = field(default_factory=dict)
    """The run's own adapter -> adapters in the order in which they came; the last is in force."""
    history: list[Event] = field(default_factory=list)
    schema: int = SCHEMA


def read_champions(run: Path) -> Champions:
    """What the file says; of a run that was never refined, nothing.

    Raises:
        DataError: the file is no champion.json.
    """
    file = run / FILE
    if not file.is_file():
        return Champions()
    try:
        return from_mapping(Champions, json.loads(file.read_text(encoding="utf-8")), str(file))
    except ValueError as error:
        raise DataError(
            f"{file} cannot be read ({error}).",
            "restore it, or delete it: the run's own adapters are then in force again.",
        ) from error


def in_force(run: Path, own: str) -> Path:
    """The folder of the adapter that answers in the place of the run's own one.

    Args:
        own: the run's own adapter, such as "trials/lora/adapter".

    Raises:
        DataError: the folder is gone.
    """
    name = read_champions(run).lines.get(own, [own])[-1]
    if name != own and not (run / name).is_dir():
        raise DataError(
            f"{run / FILE} names the adapter {name!r}, which is not there.",
            f"restore the folder, or type `dw refine {run} --roll-back`.",
        )
    return run / name


def answering(name: str) -> str:
    """What answers for a run of `dw train` or a study's `trials/METHOD`: the adapter in force.

    The name itself, where it is another thing or nothing took the place of the run's own adapter.

    Raises:
        DataError: as `in_force`.
    """
    folder = Path(name)
    for run, own in ((folder, "adapter"), (folder.parent.parent, f"trials/{folder.name}/adapter")):
        if (run / FILE).is_file() and (run / own).is_dir():
            answers = in_force(run, own)
            return name if answers == run / own else str(answers)
    return name


def crown(run: Path, own: str, adapter: str, number: int) -> None:
    """Put the adapter of round `number` in force."""
    now = read_champions(run)
    line = now.lines.get(own, [own])
    if any(event.adapter == adapter and event.what == "accepted" for event in now.history):
        return  # it is or was in force: what was rolled back stays so
    _write(run, now, own, [*line, adapter], "accepted", number)


def roll_back(run: str | Path, strategy: str | None = None) -> Event:
    """Put the adapter before the present one in force again; nothing is deleted.

    Args:
        strategy: whose adapter; None: the one that changed last.

    Raises:
        ConfigError: there is no adapter before.
    """
    run = Path(run)
    if not ours(run):
        raise DataError(
            f"{run} is no folder of a run.",
            "give the folder of `dw decide` or `dw train`, such as runs/NAME.",
        )
    own = f"trials/{parts(strategy)[0]}/adapter" if strategy else None
    with lock(run):
        now = read_champions(run)
        changed = [name for name, line in now.lines.items() if len(line) > 1]
        last = now.history[-1].adapter if now.history else ""
        latest = [name for name in changed if last in now.lines[name]]
        own = own or next(iter([*latest, *changed]), None)
        if own is None or len(now.lines.get(own, [])) < 2:
            raise ConfigError(
                f"{run} answers with the adapter that it trained first: none was before it.",
                f"type `dw refine {run}` for a challenger.",
            )
        *line, gone = now.lines[own]
        return _write(run, now, own, line, "rolled back", round_of(gone))


def round_of(adapter: str) -> int:
    """The round that trained an adapter; 0: the run itself.

    >>> round_of("refine/round-3/trial/adapter"), round_of("trials/lora/adapter")
    (3, 0)
    """
    parts = Path(adapter).parts
    return int(parts[1].removeprefix("round-")) if parts[0] == "refine" else 0


def _write(run: Path, now: Champions, own: str, line: list[str], what: str, number: int) -> Event:
    event = Event(
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        what=what,
        round=number,
        adapter=line[-1],
        hash=str(read_manifest(run / line[-1], "adapter", verify=False)["hash"]),
    )
    lines = {**now.lines, own: line}
    write_json(run / FILE, asdict(replace(now, lines=lines, history=[*now.history, event])))
    return event
