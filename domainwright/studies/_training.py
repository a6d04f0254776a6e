"""The training runs of one study: the race, each method once, further seeds, parts of the rows."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from domainwright.core.errors import CapabilityError, RunFailed
from domainwright.core.progress import Listener
from domainwright.core.records import Row, Text
from domainwright.models.base import Base
from domainwright.studies._choice import parts
from domainwright.studies.data import StudyData
from domainwright.studies.learning_curve import learning_curve
from domainwright.studies.plan import Plan
from domainwright.studies.records import Candidate, LearningCurve, Search, StrategyResult
from domainwright.studies.search import Losses, race, without_winner
from domainwright.studies.study import StudySettings
from domainwright.studies.tune import Tuned, Wanted, advance, tune


@dataclass
class Trainer:
    """Trains what a study asks for, and nothing twice."""

    study: StudySettings
    base: Base
    data: StudyData
    plan: Plan
    general: Sequence[Text]
    folder: Path
    resume: bool
    listen: Listener
    stop: Callable[[], bool]
    search: Search | None = None
    tuned: dict[str, Tuned | RunFailed | CapabilityError] = field(default_factory=dict)
    _further: dict[tuple[str, int], Tuned] = field(default_factory=dict)

    def tune(self, method: str) -> Tuned | RunFailed | CapabilityError:
        """The method's run, or why it failed: one must not lose the others their verdict."""
        if method not in self.tuned:
            try:
                self.tuned[method] = tune(
                    self._wanted(method, self.folder / "trials" / method),
                    resume=self.resume or self.search is not None,
                    listen=self.listen,
                    stop=self.stop,
                )
            except (RunFailed, CapabilityError) as error:
                self.tuned[method] = error
        return self.tuned[method]

    def _wanted(self, method: str, folder: Path, rate: float | None = None) -> Wanted:
        study = self.study
        if rate is None and self.search:
            rate = self.search.winner.learning_rate
        return Wanted(
            base=self.base,
            method=method,
            rows=self.data.split.train,
            development=self.data.split.dev,
            general=self.general,
            settings=replace(study.train, learning_rate=rate) if rate else study.train,
            method_settings=study.methods.get(method, {}),
            steps=self.plan.steps,
            seed=study.seed,
            folder=folder,
            parents={"dataset": self.data.hash, "base": self.base.sha256},
            memory_gb=study.budget.memory_gb,
            planned=self.plan.run_of(method),
            lessons=self.folder / "lessons",
        )

    def race(self) -> None:
        """Search for a method and its rate, and train the winner to its end.

        One that fails its checks at the end, by forgetting too much, say, gives way once to the
        next best.
        """
        folder = self.folder / "search"

        start: dict[str, float] | None = None

        def go_on(candidate: Candidate, until: int) -> Losses:
            nonlocal start
            wanted = self._wanted(
                candidate.method, folder / candidate.name, candidate.learning_rate
            )
            wanted = replace(wanted, start=start)
            paused = advance(wanted, until, listen=self.listen, stop=self.stop)
            start = paused.start  # of the base, which is every candidate's
            return paused.losses

        groups = {row.id: row.group for row in self.data.split.dev}
        field, steps = self.plan.candidates, self.plan.steps
        found: Search | None = race(field, steps, go_on, folder, groups, listen=self.listen)
        for last in (False, True):
            assert found is not None
            self.search, winner = found, found.winner
            trial = self.folder / "trials" / winner.method
            begun = folder / winner.name / "checkpoints"
            if begun.exists() and not (trial / "checkpoints").exists():
                shutil.copytree(begun, trial / "checkpoints")
            outcome = self.tune(winner.method)
            if last or not isinstance(outcome, RunFailed):
                return
            found = without_winner(found, outcome.cause)
            if found is None:
                return
            del self.tuned[winner.method]
            shutil.rmtree(trial)

    def further(self, method: str, number: int) -> Tuned:
        """The same method with another seed, in `trials/METHOD/seed-N`.

        Raises:
            RunFailed: it fails its checks, so the strategy is none to rely on.
        """
        if (method, number) not in self._further:
            wanted = self._wanted(method, self.folder / "trials" / method / f"seed-{number}")
            self._further[method, number] = tune(
                replace(wanted, seed=self.study.seed + number),
                resume=self.resume,
                listen=self.listen,
                stop=self.stop,
            )
        return self._further[method, number]

    def curve(self, results: Sequence[StrategyResult], best: str) -> LearningCurve | None:
        """Of the recommended method, or of the best that was trained."""
        trained = [r for r in results if r.training and r.score]
        if not self.study.evaluate.learning_curve or not trained:
            return None
        own = next((r for r in trained if r.name == best), None)
        leader = own or max(trained, key=lambda r: r.score.mean if r.score else 0.0)
        method, _ = parts(leader.name)
        assert method is not None and leader.training is not None

        def losses_of(rows: Sequence[Row], steps: int, part: int) -> Losses:
            folder = self.folder / "trials" / method
            wanted = self._wanted(method, folder if part == 1 else folder / f"part-{part}")
            if part > 1:
                settings = replace(wanted.settings, steps=None)
                wanted = replace(wanted, rows=rows, steps=steps, settings=settings, planned=None)
            return advance(wanted, steps, listen=self.listen, stop=self.stop).losses

        groups = {row.id: row.group for row in self.data.split.dev}
        train, steps = self.data.split.train, leader.training.steps
        found = learning_curve(train, steps, losses_of, groups, self.study.seed)
        return replace(found, method=method) if found else None
