"""A study's figures for the trackers that it names, while it runs and when it is decided.

What a training run measured is read from the metrics.jsonl that it writes with its checkpoints, and
told by a thread of its own: a slow tracker must not slow the training that is being measured.
"""

import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import write_json
from domainwright.core.config import as_mapping
from domainwright.core.errors import CapabilityError
from domainwright.core.progress import Listener, Step
from domainwright.studies.study import StudySettings
from domainwright.studies.trackers import TRACKERS
from domainwright.train import schedule

FOLDER = "tracking"
STATE = "state.json"
"""Which runs were opened, and how much of each file they know."""
METRICS = (
    *("metrics.jsonl", "search/*/metrics.jsonl", "trials/**/metrics.jsonl"),
    "folds/*/trials/**/metrics.jsonl",
)
CHOSEN = "chosen.json"
"""Beside them: all that was chosen for the run."""
EVERY_S = 5.0
"""Between two looks at the files."""

Line = tuple[int, dict[str, float]]


class TrackerWarning(UserWarning):
    """A tracker failed and is left out from now on; the run goes on."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse what is not installed, before anything is computed.

    Raises:
        CapabilityError: a tracker's library is missing.
    """
    for name in names:
        missing = [x for x in TRACKERS.get(name).libraries if find_spec(x) is None]
        if missing:
            raise CapabilityError(
                f"The tracker {name} needs {' and '.join(missing)}, which this install lacks.",
                f"pip install 'domainwright[{name}]', or leave {name} out of track.",
            )


@contextmanager
def tracked(study: StudySettings, folder: Path, listen: Listener) -> Iterator["Tracking"]:
    """A listener that also feeds the study's trackers; they are closed however the run ends."""
    tracking = Tracking(study, folder, listen)
    finished = False
    try:
        yield tracking
        finished = True
    finally:
        tracking.close(finished)


class Tracking:
    """Passes progress on, and what the run has written meanwhile to every tracker."""

    def __init__(self, study: StudySettings, folder: Path, listen: Listener) -> None:
        self.study, self.folder, self.listen = study, folder, listen
        self.open: dict[str, Any] | None = None
        """The trackers that work; None: none was opened yet."""
        self.known: dict[str, dict[str, Any]] = {}
        """Tracker -> its identity, and the lines it has of each run."""
        self.looked = -math.inf
        self.looking: Future[None] | None = None
        self.worker = ThreadPoolExecutor(1, "trackers")

    def __call__(self, step: Step) -> None:
        self.listen(step)
        idle = self.looking is None or self.looking.done()
        if self.study.track and idle and time.monotonic() - self.looked > EVERY_S:
            self.looked = time.monotonic()
            self.looking = self.worker.submit(self._look)

    def finish(
        self, results: Sequence[Mapping[str, object]], paths: Sequence[Path], sentence: str
    ) -> None:
        """What came of it.

        Args:
            results: one mapping per strategy, its name under "strategy".
        """
        if self.study.track:
            self.worker.submit(self._finish, results, paths, sentence).result()

    def close(self, finished: bool) -> None:
        """The last lines, and the end."""
        if self.looking is not None:
            self.worker.submit(self._close, finished).result()
        self.worker.shutdown()

    def _finish(
        self, results: Sequence[Mapping[str, object]], paths: Sequence[Path], sentence: str
    ) -> None:
        self._look()
        for name in list(self.open or {}):
            for result in results:
                self._tell(name, "result", str(result["strategy"]), _numbers(result))
            self._tell(name, "files", paths, sentence)

    def _close(self, finished: bool) -> None:
        self._look()
        assert self.open is not None
        for name in list(self.open):
            self._tell(name, "close", finished)
        self.open = {}

    def _look(self) -> None:
        """New lines of all training runs."""
        if self.open is None:
            self._begin()
        assert self.open is not None
        for run, lines in self._runs().items():
            for name in list(self.open):
                had = self.known[name]["lines"].get(run, 0)
                had = had if had <= len(lines) else 0  # the run was begun again
                if lines[had:]:
                    self._tell(name, "metrics", run, lines[had:])
                    self.known[name]["lines"][run] = len(lines)
        if self.open:
            self._keep()

    def _begin(self) -> None:
        """Open every tracker, or go on with what a study that is resumed had opened."""
        place = self.folder / FOLDER / STATE
        before = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
        self.open = {}
        for name in self.study.track:
            had = before.get(name)
            tracker = None
            try:
                kind = TRACKERS.get(name)
                where = self.folder / FOLDER / name
                tracker = kind(str(self.study.name or "study"), where, had and had["identity"])
            except Exception as error:  # whatever its library raises: the study goes on
                _warn(name, error)
                continue
            self.open[name] = tracker
            self.known[name] = had or {"identity": tracker.identity, "lines": {}}
            if had is None:
                self._tell(name, "parameters", _flat(as_mapping(self.study)))

    def _tell(self, name: str, what: str, *words: object) -> None:
        assert self.open is not None
        if name not in self.open:
            return
        try:
            getattr(self.open[name], what)(*words)
        except Exception as error:  # whatever its library raises: the study goes on
            del self.open[name]
            _warn(name, error)

    def _keep(self) -> None:
        place = self.folder / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / STATE, self.known)

    def _runs(self) -> dict[str, list[Line]]:
        """Every training run with its lines so far."""
        found = {}
        for file in sorted(f for pattern in METRICS for f in self.folder.glob(pattern)):
            place = file.parent.relative_to(self.folder)
            run = place.as_posix().removeprefix("trials/")
            found["train" if run == "." else run] = _lines(file)
        return found


def _lines(file: Path) -> list[Line]:
    """What metrics.jsonl holds, with the learning rate of every step."""
    beside = file.with_name(CHOSEN)
    chosen = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    found = []
    for text in file.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        step = int(line.pop("step"))
        if chosen and "loss" in line:
            line["learning_rate"] = _rate(chosen, step)
        found.append((step, _numbers(line)))
    return found


def _rate(chosen: Mapping[str, Any], step: int) -> float:
    """Of the update that ended step `step`, counted from 1."""
    share = schedule.factor(
        chosen["schedule"],
        step - 1,
        chosen["steps"],
        chosen["warmup_share"],
        chosen["decay_share"],
    )
    return float(chosen["learning_rate"]) * share


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """{"train.steps": "100"}: one line per setting, in words."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}.")
        elif isinstance(value, (list, tuple)):
            found[f"{above}{key}"] = json.dumps(value, default=str, ensure_ascii=False)
        else:
            found[f"{above}{key}"] = str(value)
    return found


def _warn(name: str, error: Exception) -> None:
    words = " ".join(str(error).split())[:300] or type(error).__name__
    warnings.warn(
        f"The tracker {name} failed and is left out from here: {words}",
        TrackerWarning,
        stacklevel=3,
    )
