"""The training runs of one study: the race, each method once, further seeds, parts of the rows."""

import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from domainwright.core.artifacts import MANIFEST, aside, sha256_json
from domainwright.core.errors import CapabilityError, RunFailed
from domainwright.core.progress import Listener
from domainwright.core.records import Row, Text
from domainwright.models.base import Base
from domainwright.studies._choice import STAND_IN, parts, side_by_side
from domainwright.studies._in_turn import Stages
from domainwright.studies._on_ray import RayWorkers
from domainwright.studies._worker import Outcome
from domainwright.studies.ablation import advice, gain
from domainwright.studies.data import StudyData
from domainwright.studies.learning_curve import learning_curve
from domainwright.studies.plan import Plan
from domainwright.studies.records import Candidate, LearningCurve, Search, StrategyResult
from domainwright.studies.search import Losses, race, without_winner
from domainwright.studies.sequence import in_sequence
from domainwright.studies.study import StudySettings
from domainwright.studies.task_records import InSequence, Transfer
from domainwright.studies.transfer import transfer
from domainwright.studies.tune import Tuned, Wanted, advance, tune

SIDE_BY_SIDE = "side-by-side"
"""Folder of the run that learns every task apart, beside that of all tasks as one."""


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
    workers: RayWorkers | None = None
    """Make trainings ahead, several at once; the study then finds them made. None: it makes them
    itself, in turn."""
    lessons: Path | None = None
    """Folder of the study that keeps what a teacher says, where it is not `folder`."""
    search: Search | None = None
    tuned: dict[str, Tuned | RunFailed | CapabilityError] = field(default_factory=dict)
    _further: dict[tuple[str, int], Tuned] = field(default_factory=dict)
    _apart: dict[tuple[str, str | None, int], Tuned] = field(default_factory=dict)
    """(method, task, seed's number) -> the task's own adapter; None: of all, side by side."""
    _made: dict[tuple[Path, int | None], Outcome] = field(default_factory=dict)
    """(folder, step to pause at) -> what came of a training that was made ahead."""

    def ahead(self, methods: Sequence[str], *, seeded: bool = True) -> None:
        """Have all trainings of these methods made at once, where there is someone to do it.

        Args:
            seeded: those of the study's further seeds, too.
        """
        wanted = [self._wanted(method, self.folder / "trials" / method) for method in methods]
        seeds = range(1, self.plan.seeds if seeded else 1)
        self._ahead([*wanted, *(self._seeded(m, number) for m in methods for number in seeds)])

    def _ahead(self, wanted: Sequence[Wanted], until: int | None = None) -> None:
        if self.workers is None:
            return
        named = {w.folder.relative_to(self.folder).as_posix().split("/", 1)[1]: w for w in wanted}
        if until is None:
            made = [n for n, w in named.items() if (w.folder / "adapter" / MANIFEST).exists()]
            named = {n: w for n, w in named.items() if n not in made}
        if named:
            found = self.workers.train(named, until, self.listen, self.stop)
            self._made |= {(w.folder, until): found[name] for name, w in named.items()}

    def _tune(self, wanted: Wanted, resume: bool) -> Tuned:
        """As `tune`; what was made ahead is read back."""
        made = self._made.get((wanted.folder, None))
        if isinstance(made, Exception):
            raise made
        resume = resume or self.workers is not None
        return tune(wanted, resume=resume, listen=self.listen, stop=self.stop)

    def tune(self, method: str) -> Tuned | RunFailed | CapabilityError:
        """The method's run, or why it failed: one must not lose the others their verdict."""
        if method not in self.tuned:
            self.tuned[method] = self._run(method, self.folder / "trials" / method)
        return self.tuned[method]

    def _run(
        self, method: str, folder: Path, *, resume: bool | None = None
    ) -> Tuned | RunFailed | CapabilityError:
        wanted = self._wanted(method, folder)
        try:
            return self._tune(wanted, self.resume if resume is None else resume)
        except (RunFailed, CapabilityError) as error:
            return error

    def tasks(self) -> list[str]:
        """Of the training rows, in alphabetical order."""
        return sorted({self.data.tasks.get(row.id, "") for row in self.data.lessons.train})

    def of_task(self, method: str, task: str, number: int = 0) -> Tuned:
        """The method's adapter for one task, in `trials/METHOD/tasks/`; see `_tasked`.

        Raises:
            RunFailed, CapabilityError: it fails, or the adapter that it begins from did.
        """
        known = (method, task, number)
        if known in self._apart:
            return self._apart[known]
        trial = self.folder / "trials" / method
        whole = self._seeded(method, number) if number else self._wanted(method, trial)
        apart, begin = side_by_side(method), None
        # What is learned side by side has no head: its labels would be those of one task.
        if self.study.apart.begin == "shared" and not (apart and self.study.train.head):
            if apart:
                begin = self._side_by_side(method, number, whole)
            else:
                before = self.further(method, number) if number else self.tune(method)
                if isinstance(before, Exception):
                    raise before
                begin = whole.folder / "adapter"
        lessons, own = self.data.lessons, self.data.tasks
        rows = [row for row in lessons.train if own.get(row.id, "") == task]
        watched = [row for row in lessons.dev if own.get(row.id, "") == task]
        steps = whole.settings.steps or self.plan.steps
        wanted = replace(
            whole,
            rows=rows,
            development=watched or rows,
            steps=max(1, round(steps * len(rows) / len(lessons.train))),
            settings=replace(whole.settings, steps=None, tasks=None),
            shares=None,
            folder=whole.folder / "tasks" / folder_of(task),
            begin=begin,
            task=task if begin and apart else None,
            planned=None,
        )
        self._apart[known] = self._tune(wanted, self.resume)
        return self._apart[known]

    def _side_by_side(self, method: str, number: int, whole: Wanted) -> Path:
        """The adapter of one run in which the method learns every task apart and what they share.

        Raises:
            RunFailed, CapabilityError: it fails.
        """
        known = (method, None, number)
        if known not in self._apart:
            place = whole.folder / SIDE_BY_SIDE
            wanted = replace(whole, folder=place, side_by_side=tuple(self.tasks()), planned=None)
            self._apart[known] = self._tune(wanted, self.resume)
        return whole.folder / SIDE_BY_SIDE / "adapter"

    def release(self) -> None:
        """Hold no adapter any more; with `resume` it is read back when it is asked for."""
        self.tuned, self._further, self._apart = {}, {}, {}

    def _seeded(self, method: str, number: int) -> Wanted:
        """The same method with another seed, in `trials/METHOD/seed-N`."""
        wanted = self._wanted(method, self.folder / "trials" / method / f"seed-{number}")
        return replace(wanted, seed=self.study.seed + number)

    def _wanted(self, method: str, folder: Path, rate: float | None = None) -> Wanted:
        study, settings = self.study, self.data.looked_at(self.study.train)
        if rate is None and self.search:
            rate = self.search.winner.learning_rate
        return Wanted(
            base=self.base,
            method=method,
            rows=self.data.lessons.train,
            development=self.data.lessons.dev,
            general=self.general,
            hidden=self.data.split.test,
            settings=replace(settings, learning_rate=rate) if rate else settings,
            method_settings=study.methods.get(method, {}),
            steps=self.plan.steps,
            seed=study.seed,
            folder=folder,
            parents={"dataset": self.data.hash, "base": self.base.sha256},
            memory_gb=study.budget.memory_gb,
            planned=self.plan.run_of(method),
            lessons=(self.lessons or self.folder) / "lessons",
            tasks=self.data.tasks,
            shares=self.data.shares,
            alike=self.data.alike,
        )

    def winner(self) -> str:
        """The method that the study's search finds, trained; the stand-in where it finds none.

        Every candidate has a folder of its own, in which the winner also ends its run; one that
        fails its checks there, by forgetting too much, say, gives way once to the next best.
        """
        if self.search is not None:
            return self.search.winner.method
        if STAND_IN in self.tuned:
            return STAND_IN
        try:
            found = self._race()
        except RunFailed as error:
            self.tuned[STAND_IN] = error
            return STAND_IN
        self.search = found
        outcome = self._finish(found.winner)
        if isinstance(outcome, RunFailed):
            self.search = without_winner(found, outcome.cause) or found
            if self.search is not found:
                outcome = self._finish(self.search.winner)
        method = self.search.winner.method
        self.tuned[method] = outcome
        if isinstance(outcome, Tuned):
            self._ahead([self._seeded(method, number) for number in range(1, self.plan.seeds)])
        return method

    def _race(self) -> Search:
        start: dict[str, float] | None = None

        def wanted_of(candidate: Candidate) -> Wanted:
            place, rate = self._place(candidate), candidate.learning_rate
            return replace(self._wanted(candidate.method, place, rate), start=start)

        def ahead(those: Sequence[Candidate], until: int) -> None:
            nonlocal start
            if self.workers and start is None and those:
                with suppress(RunFailed, CapabilityError):  # which it meets again in its own turn
                    start = advance(wanted_of(those[0]), 0, listen=self.listen).start
            self._ahead([wanted_of(candidate) for candidate in those], until)

        def go_on(candidate: Candidate, until: int) -> Losses:
            nonlocal start
            made = self._made.get((self._place(candidate), until))
            if isinstance(made, Exception):
                raise made
            wanted = wanted_of(candidate)
            paused = made or advance(wanted, until, listen=self.listen, stop=self.stop)
            start = paused.start  # of the base, which is every candidate's
            return paused.losses

        groups = {row.id: row.group for row in self.data.split.dev}
        field, steps, place = self.plan.candidates, self.plan.steps, self.folder / "search"
        return race(field, steps, go_on, place, groups, ahead=ahead, listen=self.listen)

    def _place(self, candidate: Candidate) -> Path:
        return self.folder / "search" / candidate.name

    def _finish(self, candidate: Candidate) -> Tuned | RunFailed | CapabilityError:
        """The candidate's run to its end, and what came of it in `trials/`."""
        place, rate = self._place(candidate), candidate.learning_rate
        self._ahead([self._wanted(candidate.method, place, rate)])
        outcome = self._run(candidate.method, self._place(candidate), resume=True)
        trial = self.folder / "trials" / candidate.method
        if isinstance(outcome, Tuned) and not trial.exists():
            trial.parent.mkdir(exist_ok=True)
            copy = aside(trial, "tmp")
            shutil.copytree(self._place(candidate), copy)
            copy.rename(trial)
        return outcome

    def further(self, method: str, number: int) -> Tuned:
        """The same method with another seed, in `trials/METHOD/seed-N`.

        Raises:
            RunFailed: it fails its checks, so the strategy is none to rely on.
        """
        if (method, number) not in self._further:
            self._further[method, number] = self._tune(self._seeded(method, number), self.resume)
        return self._further[method, number]

    def curve(self, results: Sequence[StrategyResult], best: str) -> LearningCurve | None:
        """Of the recommended method, or of the best that was trained."""
        leader = _leader(results, best)
        if not self.study.evaluate.learning_curve or leader is None:
            return None
        method, steps = leader

        def losses_of(rows: Sequence[Row], steps: int, part: int) -> Losses:
            folder = self.folder / "trials" / method
            wanted = self._wanted(method, folder if part == 1 else folder / f"part-{part}")
            if part > 1:
                settings = replace(wanted.settings, steps=None)
                wanted = replace(wanted, rows=rows, steps=steps, settings=settings, planned=None)
            return advance(wanted, steps, listen=self.listen, stop=self.stop).losses

        groups = {row.id: row.group for row in self.data.split.dev}
        train = self.data.lessons.train
        found = learning_curve(train, steps, losses_of, groups, self.study.seed)
        return replace(found, method=method) if found else None

    def ablation(self, results: Sequence[StrategyResult], best: str) -> str | None:
        """Whether made rows helped that method, in a sentence; None: not asked, or none made."""
        leader = _leader(results, best)
        train = self.data.lessons.train
        own = [row for row in train if row.provenance is None]
        made = {row.id for row in train if row.provenance}
        asked = any(way.ablation for way in self.study.data.augment)
        if not asked or leader is None or not own or not made:
            return None
        method, steps = leader
        trial = self.folder / "trials" / method
        whole = self._wanted(method, trial)
        settings = replace(whole.settings, steps=None)
        part = self._wanted(method, trial / "without-made")
        part = replace(part, rows=own, steps=steps, settings=settings, planned=None)
        try:
            without, with_made = (
                advance(wanted, steps, listen=self.listen, stop=self.stop).losses
                for wanted in (part, whole)
            )
        except RunFailed as error:
            return f"Whether the made rows helped is not known: without them, {error.cause}"
        groups = {row.id: row.group for row in self.data.split.dev}
        found = gain(without, with_made, groups)
        return advice(method, len(made), steps, found)

    def transfer(self, results: Sequence[StrategyResult], best: str) -> Transfer | None:
        """What the tasks do for each other under that method; None: not asked, or one task."""
        leader = _leader(results, best)
        if not self.study.evaluate.transfer or leader is None:
            return None
        method, steps = leader
        trial, train = self.folder / "trials" / method, self.data.lessons.train

        def losses_of(rows: Sequence[Row], steps: int, left_out: str | None) -> Losses:
            wanted = self._wanted(method, trial)
            if left_out is not None:
                place = trial / f"without-{sha256_json(left_out)[:8]}"
                one = len({self.data.tasks.get(row.id) for row in rows}) == 1
                tasks = None if one else wanted.settings.tasks
                settings = replace(wanted.settings, steps=None, tasks=tasks)
                wanted = replace(self._wanted(method, place), rows=rows, steps=steps, planned=None)
                wanted = replace(wanted, settings=settings)
            return advance(wanted, steps, listen=self.listen, stop=self.stop).losses

        groups = {row.id: row.group for row in self.data.split.dev}
        return transfer(method, train, self.data.tasks, steps, losses_of, groups)

    def sequence(self, results: Sequence[StrategyResult], best: str) -> InSequence | None:
        """Its tasks learned in turn by that method; None: not asked, or no method was trained."""
        leader, order = _leader(results, best), self.study.evaluate.sequence
        if not order or leader is None:
            return None
        method, steps = leader
        wanted = self._wanted(method, self.folder / "trials" / method)
        stages = Stages(wanted, order, partial(self._tune, resume=True))
        groups = {row.id: row.group for row in self.data.split.dev}
        return in_sequence(method, order, wanted.rows, wanted.tasks, steps, stages, groups)


def folder_of(task: str) -> str:
    """A task's name as the name of a folder, unlike any other task's.

    >>> folder_of("refunds"), folder_of("a/b")
    ('refunds', 'a_b-f5effa31')
    """
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", task)
    return plain if plain == task and task else f"{plain}-{sha256_json(task)[:8]}"


def _leader(results: Sequence[StrategyResult], best: str) -> tuple[str, int] | None:
    """(method, steps) of the recommended strategy, or of the best that was trained."""
    trained = [r for r in results if r.training and r.score and not r.adapters]
    if not trained:
        return None
    own = next((r for r in trained if r.name == best), None)
    leader = own or max(trained, key=lambda r: r.score.mean if r.score else 0.0)
    method, _ = parts(leader.name)
    assert method is not None and leader.training is not None
    return method, leader.training.steps
