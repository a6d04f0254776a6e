"""Optuna: its database, SQLite in the study's own folder or what OPTUNA_STORAGE names.

A study is one of Optuna's, each training run and strategy one of its trials. Optuna maximises: the
value of a trial is the strategy's score (minus it, where lower is better), what it tells on the way
minus the development loss. A run that is no strategy's, as those of the search, ends as pruned.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from domainwright.studies.trackers import TRACKERS

WATCHED = "development_loss"
MOST_NAMES = 1000
"""Studies of one name in a database that several share; the next ones are "name-2", "name-3"."""


@TRACKERS.register
class Optuna:
    """A study in Optuna's database."""

    libraries = ("optuna",)

    def __init__(self, name: str, folder: Path, known: str | None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        place = os.environ.get("OPTUNA_STORAGE")
        if not place:
            folder.mkdir(parents=True, exist_ok=True)
            place = f"sqlite:///{folder.resolve() / 'optuna.db'}"
        self.optuna, storage = optuna, optuna.storages.RDBStorage(place)
        if known:
            self.study = optuna.load_study(study_name=known, storage=storage)
        else:
            taken = set(optuna.get_all_study_names(storage))
            names = (name if n == 1 else f"{name}-{n}" for n in range(1, MOST_NAMES))
            free = next(x for x in names if x not in taken)
            self.study = optuna.create_study(study_name=free, storage=storage, direction="maximize")
        self.identity = self.study.study_name
        before = [t for t in self.study.get_trials(deepcopy=False) if "strategy" in t.user_attrs]
        self.trials = {trial.user_attrs["strategy"]: trial._trial_id for trial in before}
        self.over = {t.user_attrs["strategy"] for t in before if t.state.is_finished()}
        """Optuna changes no trial that has ended."""

    def parameters(self, values: Mapping[str, str]) -> None:
        for key, value in values.items():
            self.study.set_user_attr(key, value)

    def metrics(self, run: str, lines: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        if run in self.over:
            return
        trial = self._trial(run)
        for step, values in lines:
            if WATCHED in values:
                trial.report(-values[WATCHED], step)
        last = {key: value for _, values in lines for key, value in values.items()}
        for key, value in last.items():
            trial.set_user_attr(key, value)

    def result(self, strategy: str, values: Mapping[str, float]) -> None:
        if strategy in self.over:
            return
        trial = self._trial(strategy)
        self.over.add(strategy)
        for key, value in values.items():
            trial.set_user_attr(key, value)
        score = values.get("score")
        if score is None:
            self._end(trial, "FAIL")
            return
        sign = -1 if values.get("lower_is_better") else 1
        self.study.tell(trial.number, sign * score, skip_if_finished=True)

    def files(self, paths: Sequence[Path], sentence: str) -> None:
        self.study.set_user_attr("verdict", sentence)
        self.study.set_user_attr("files", [str(path) for path in paths])

    def close(self, finished: bool) -> None:
        if finished:
            running = self.optuna.trial.TrialState.RUNNING
            for trial in self.study.get_trials(deepcopy=False, states=(running,)):
                self._end(trial, "PRUNED")

    def _end(self, trial: Any, state: str) -> None:
        states = self.optuna.trial.TrialState
        self.study.tell(trial.number, state=states[state], skip_if_finished=True)

    def _trial(self, name: str) -> Any:
        """The trial of a run or strategy, begun where there is none."""
        if name not in self.trials:
            trial = self.study.ask()
            trial.set_user_attr("strategy", name)
            self.trials[name] = trial._trial_id
        return self.optuna.trial.Trial(self.study, self.trials[name])
