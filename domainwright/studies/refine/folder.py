"""`refine/round-N`: a round is begun, gone on with, or read back; its manifest is written last.

request.json    what was asked for: a resumed round must be the same
errors.json     proposal.json  reasons.jsonl    what was found, and what was proposed why
data/           the proposed rows, a dataset; dropped ones with their reason
trial/          the challenger's run
champion/  challenger/    answers to the development rows, and what was retained
decision.json   manifest.json
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from domainwright.core.artifacts import MANIFEST, read_manifest, write_json
from domainwright.core.config import from_mapping
from domainwright.core.errors import ConfigError
from domainwright.studies.records import Training
from domainwright.studies.refine.champion import in_force
from domainwright.studies.refine.records import Decision, Errors, Proposal, Refined

KIND = "refinement"
REQUEST = "request.json"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """All that decides what a round will be."""

    strategy: str
    champion: str
    """Hash of the adapter that is challenged."""
    dataset: str
    files: dict[str, str]
    """New files -> their hashes."""
    augment: str | None
    share: float
    steps: int


@dataclass(frozen=True, slots=True)
class Opened:
    number: int
    folder: Path
    finished: bool
    """The round is whole already, and is what was asked for."""


def open_round(run: Path, request: Request, *, resume: bool, fresh: bool) -> Opened:
    """The round to work in. Call it while holding the run's lock.

    Raises:
        ConfigError: an unfinished round lies there and neither flag was given, or it was begun
            with something else.
    """
    if resume and fresh:
        raise ConfigError(
            "--resume goes on with a round and --fresh deletes it.", "give one of the two."
        )
    last = max(rounds(run), default=0)
    folder = run / "refine" / f"round-{last}"
    whole = (folder / MANIFEST).is_file()
    if last and whole and resume and _asked(folder) == asdict(request):
        return Opened(last, folder, True)
    if last and not whole:
        if fresh:
            shutil.rmtree(folder)
        elif not resume:
            raise ConfigError(
                f"{folder} holds an unfinished round.",
                "add --resume to go on with it, or --fresh to begin it again.",
            )
        else:
            _refuse_changes(folder, request)
            return Opened(last, folder, False)
    number = last + (whole or not last)
    folder = run / "refine" / f"round-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / REQUEST, asdict(request))
    return Opened(number, folder, False)


def rounds(run: Path) -> list[int]:
    """Numbers of the rounds begun."""
    names = [path.name for path in (run / "refine").glob("round-*") if path.is_dir()]
    return sorted(int(n.removeprefix("round-")) for n in names if n[6:].isdigit())


def read_round(run: Path, number: int, own: str) -> Refined:
    """A finished round.

    Raises:
        DataError: it is not finished, or its files were altered.
    """
    folder = run / "refine" / f"round-{number}"
    manifest = read_manifest(folder, KIND)
    trained = folder / "trial" / "training.json"
    return Refined(
        folder=folder,
        round=number,
        strategy=_asked(folder)["strategy"],
        score=manifest["facts"]["score"],
        errors=_read(Errors, folder / "errors.json"),
        proposal=_read(Proposal, folder / "proposal.json"),
        decision=_read(Decision, folder / "decision.json"),
        training=_read(Training, trained) if trained.is_file() else None,
        in_force=in_force(run, own).relative_to(run).as_posix(),
    )


def _asked(folder: Path) -> dict[str, Any]:
    file = folder / REQUEST
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _read(cls: type[T], file: Path) -> T:
    return from_mapping(cls, json.loads(file.read_text(encoding="utf-8")), str(file))


def _refuse_changes(folder: Path, request: Request) -> None:
    before, now = _asked(folder), asdict(request)
    for key in before.keys() & now.keys():
        if before[key] != now[key]:
            raise ConfigError(
                f"{folder} was begun with {key} = {before[key]!r}, and it is {now[key]!r} now.",
                "resume with the same options and files, or begin the round again with --fresh.",
            )
    write_json(folder / REQUEST, now)
