"""Trackio: a database in the user's own cache. `trackio show --project domainwright` shows it."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from domainwright.studies.trackers import EXPERIMENT, TRACKERS


@TRACKERS.register
class Trackio:
    """A run in the project "domainwright"; of a verdict it keeps the files."""

    libraries = ("trackio",)

    def __init__(self, name: str, folder: Path, known: str | None) -> None:
        import trackio

        self.name = name
        self.trackio = trackio
        self.settings: dict[str, str] = {}
        self.run = None
        self.identity = known or name
        if known:
            self._open()

    def parameters(self, values: Mapping[str, str]) -> None:
        self.settings = dict(values)
        self._open()

    def _open(self) -> None:
        # Settings are given when a run is opened. It prints what it does, and we do not.
        with redirect_stdout(io.StringIO()):
            self.run = self.trackio.init(
                project=EXPERIMENT,
                name=self.identity,
                config=self.settings or None,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def metrics(self, run: str, lines: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        assert self.run is not None
        for step, values in lines:
            self.run.log({f"{run}/{name}": value for name, value in values.items()}, step=step)

    def result(self, strategy: str, values: Mapping[str, float]) -> None:
        self.metrics(f"{strategy}/result", [(0, values)])

    def files(self, paths: Sequence[Path], sentence: str) -> None:
        with redirect_stdout(io.StringIO()):
            for path in paths:
                self.trackio.save(path, project=EXPERIMENT)

    def close(self, finished: bool) -> None:
        if self.run is not None:
            with redirect_stdout(io.StringIO()):
                # Not the run's own: it would be finished once more, in print, with the program.
                self.trackio.finish()
