"""Progress of a study as a whole: where every strategy stands, and how long it will still take.

    time left = what is left of the running strategy + planned time of those that wait · pace
    pace      = (measured time of the finished strategies + p) / (their planned time + p)

p, a quarter of the whole plan, keeps one small strategy from deciding about the others.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from domainwright.core.progress import Listener, Standing, Step
from domainwright.maths.bootstrap import Interval, interval
from domainwright.studies._choice import STAND_IN, parts
from domainwright.studies._format import unit
from domainwright.studies.plan import Plan, StrategyPlan
from domainwright.studies.records import StrategyResult

SEARCHED = "best method"
"""What a strategy is called until the search has found its method."""
FEWEST_SO_FAR, EVERY_S = 10, 2.0
"""Items that a score is told of while others are still asked, and seconds between two of them."""
READ_BACK = 0.1
"""A strategy that took a smaller share of its plan was read back and says nothing of the pace."""


SO_FAR = "so far"


class Live:
    """A listener that adds to every step what is known of the whole study."""

    def __init__(self, listen: Listener) -> None:
        self.listen = listen
        self.standings: list[Standing] = []
        self.planned: list[StrategyPlan] = []
        self.repeats = False
        """Whether a method is trained more than once: with other seeds, or in a search."""
        self.number = -1
        """Of the running strategy."""
        self.begun = 0.0
        """When it began."""
        self.stage: tuple[str, int, float] | None = None
        """Name, first count and beginning of the stage that is going on."""
        self.paid: list[tuple[float, float]] = []
        """(measured, planned) seconds of the finished strategies."""
        self.score = ""
        """Name of the score that decides."""
        self.told_at = 0.0
        """When a score of some items was last told."""

    def __call__(self, step: Step) -> None:
        if self.stage is None or self.stage[0] != step.stage or step.done < self.stage[1]:
            self.stage = step.stage, step.done, time.monotonic()
        if 0 <= self.number < len(self.standings):
            standing = self.standings[self.number]
            if standing.status == "running":
                score = self._some(step, standing)
                doing = _doing(step, standing.name)
                self.standings[self.number] = replace(standing, doing=doing, score=score)
        elif step.stage.startswith("train "):
            self._ahead(step)
        self.listen(replace(step, standings=tuple(self.standings), left_s=self._left(step)))

    def plan(self, plan: Plan, names: Sequence[str], seeds: int, score: str) -> None:
        """All strategies wait."""
        self.score = score
        self.repeats = seeds > 1 or bool(plan.candidates)
        known = {s.name: s for s in plan.strategies}
        self.planned = [known[name] for name in names if name in known]
        shown = [
            name.replace(STAND_IN, SEARCHED) if plan.candidates and parts(name)[0] else name
            for name in names
        ]
        self.standings = [Standing(name) for name in shown]

    def _some(self, step: Step, standing: Standing) -> str:
        """The score of the items that are answered already, where none of all is known."""
        now = time.monotonic()
        if standing.score and not standing.score.startswith(SO_FAR):
            return standing.score
        if len(step.marks) < FEWEST_SO_FAR or now - self.told_at < EVERY_S:
            return standing.score
        groups, marks = zip(*step.marks, strict=True)
        self.told_at = now
        return f"{SO_FAR} {unit(self.score).levels(interval(np.array(marks), groups))}"

    def _ahead(self, step: Step) -> None:
        """A training that is made before a strategy's turn comes."""
        method = step.stage.removeprefix("train ").partition("/")[0]
        for number, standing in enumerate(self.standings):
            if parts(standing.name)[0] == method:
                self.standings[number] = replace(standing, doing=_doing(step, standing.name))

    def made_ahead(self) -> None:
        """All trainings are made: what is left is asking."""
        self.planned = [replace(plan, train_minutes=0.0) for plan in self.planned]

    def add(self, name: str) -> None:
        """One more strategy, found worth trying on the way: no plan knows it."""
        self.standings.append(Standing(name))
        self.planned.append(
            StrategyPlan(name=name, ask_minutes=0.0, train_minutes=0.0, check_minutes=0.0)
        )

    def start(self, number: int, name: str = "") -> None:
        """The strategy with this number runs, under this name once it is known."""
        if number != self.number:
            self.number, self.begun = number, time.monotonic()
        name = name or self.standings[number].name
        self.standings[number] = Standing(name, "running", "starting")

    def so_far(self, score: str, value: Interval) -> None:
        """The running strategy's score, which may still change."""
        words = f"{unit(score).label} {unit(score).levels(value)}"
        self.standings[self.number] = replace(self.standings[self.number], score=words)

    def finish(self, result: StrategyResult, score: str) -> None:
        """The running strategy is measured, or failed."""
        measured = result.status if result.score is None else ""
        if result.score is not None:
            self.so_far(score, result.score)
        standing = self.standings[self.number]
        status = "failed" if measured else "done"
        self.standings[self.number] = replace(standing, name=result.name, status=status, doing="")  # type: ignore[arg-type]
        if self.number < len(self.planned):
            planned = _seconds(self.planned[self.number])
            self.paid.append((time.monotonic() - self.begun, planned))
        words = {result.name: measured or self.standings[self.number].score}
        self(Step("strategies", self.number + 1, len(self.standings), words))

    def _pace(self) -> float:
        told = [(took, plan) for took, plan in self.paid if took > READ_BACK * plan]
        prior = sum(map(_seconds, self.planned)) / 4
        planned = prior + sum(plan for _, plan in told)
        return (prior + sum(took for took, _ in told)) / planned if planned else 1.0

    def _left(self, step: Step) -> float | None:
        if len(self.planned) != len(self.standings) or not self.planned:
            return None
        if all(s.status in ("done", "failed") for s in self.standings):
            return None
        if self.number < 0 and step.stage.startswith("train "):
            return None  # several at once, on machines that the plan does not know
        pace = self._pace()
        waiting = [
            _seconds(plan)
            for plan, standing in zip(self.planned, self.standings, strict=True)
            if standing.status == "waiting"
        ]
        own = self._own(step, pace) if self.standings[self.number].status == "running" else 0.0
        return own + pace * sum(waiting)

    def _own(self, step: Step, pace: float) -> float:
        """Seconds until the running strategy is done."""
        plan, name = self.planned[self.number], self.standings[self.number].name
        by_plan = max(0.0, pace * _seconds(plan) - (time.monotonic() - self.begun))
        assert self.stage is not None
        _, first, begun = self.stage
        if step.done <= first or self.repeats:
            return by_plan
        stage = (time.monotonic() - begun) / (step.done - first) * (step.total - step.done)
        if step.stage == name:
            return stage
        if step.stage.startswith("train "):
            return stage + pace * 60 * (plan.check_minutes + plan.ask_minutes)
        return by_plan


def _seconds(plan: StrategyPlan) -> float:
    return 60 * (plan.ask_minutes + plan.train_minutes + plan.check_minutes)


def _doing(step: Step, name: str) -> str:
    """A stage in the words of the table."""
    where = f"{step.done} of {step.total}"
    if step.stage.startswith("train "):
        return f"training step {where}"
    if step.stage == name:
        return f"asking {where}"
    if step.stage.startswith("retention "):
        return f"forgetting {where}"
    return f"{step.stage} {where}"
