"""What fits into the budget, predicted before anything is run, from probes of a few seconds.

    asking one strategy   items · (prompt tokens / read rate + new tokens / write rate)
    training              passes and FLOPs of every step at measured rates    (train.fit)
    peak memory           the line through two measured passes                (train.probe)

The rates, the predictions and what was shortened are part of the verdict. Settings that the
study gives are never changed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domainwright.core.errors import CapabilityError
from domainwright.core.records import Row, Text
from domainwright.models.base import Base
from domainwright.models.encoder import MAX_TOKENS
from domainwright.models.forms import encode_rows
from domainwright.studies._asked import TUNED
from domainwright.studies._choice import (
    of_all_tasks,
    parts,
    prompted,
    runs_a_method,
    side_by_side,
)
from domainwright.studies._gate import MOST_DEVELOPMENT, MOST_ROWS
from domainwright.studies._longest import longest_answer
from domainwright.studies._names import is_gated, is_tasked, ungated
from domainwright.studies._probes import (
    Probed,
    Race,
    probe_methods,
    race_of,
    searches,
    step_seconds,
)
from domainwright.studies._prompt_tokens import item_tokens, preparing_tokens
from domainwright.studies._repeats import affordable_seeds, told_of_folds, trainings
from domainwright.studies._retriever import tuning_tokens
from domainwright.studies._speeds import rates
from domainwright.studies._watched import limit
from domainwright.studies.coherence import further
from domainwright.studies.data import WRITTEN, StudyData
from domainwright.studies.records import Candidate
from domainwright.studies.search import COST
from domainwright.studies.study import StudySettings
from domainwright.train.epochs import full_steps, told_steps
from domainwright.train.fit import Fit, decide

ENCODER_FACTOR = 6
"""Tokens the sentence encoder reads while the base reads one; it has 21M parameters."""
RETENTION_TOKENS = 19_000
"""Tokens of the shipped retention suite, every choice with its question."""
MOST_ITEMS, FEWEST_ITEMS = 200, 20
FEWEST_STEPS = 10
ASK_SHARE, TRAIN_SHARE = 0.45, 0.45
"""Shares of the budget that is left after retention, checks and search; the rest reads data."""
BOTH = 0.8
"""Of the same, for asking and training where asking needs less than its share: runs of minutes took
up to a fifth longer than the probe's seconds promised."""
NO_RACE = "No search: the budget has time for one training run, of lora."
LATE = 1.2
"""A plan this many times over the budget says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyPlan:
    """One strategy, as predicted."""

    name: str
    ask_minutes: float
    """Reading the test items' prompts and writing the answers."""
    train_minutes: float
    """0 for prompting, and where another strategy trains the same adapter."""
    check_minutes: float
    """Losses watched during training, and what was retained after it."""
    run: Fit | None = None
    """The training run; None for prompting."""

    @property
    def minutes(self) -> float:
        return self.ask_minutes + self.train_minutes + self.check_minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPlan:
    method: str
    run: Fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    items: int
    new_tokens: int
    steps: int
    """Optimiser steps of each trained strategy."""
    seeds: int = 1
    """Trainings of each trained strategy, or of each of its folds."""
    folds: int = 0
    """Of the rows; each is a training more. 0: one test part."""
    read_tokens_per_s: float
    write_tokens_per_s: float
    strategies: tuple[StrategyPlan, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    """Of the search for a method and its learning rate; empty: none is made."""
    runs: tuple[MethodPlan, ...] = ()
    """How each method's run fits into memory."""
    minutes: float = 0.0
    """Of the whole study."""
    notes: tuple[str, ...] = ()
    """What was shortened to fit, in words."""

    def run_of(self, method: str) -> Fit | None:
        """How the method's run fits into memory."""
        return next((x.run for x in self.runs if x.method == method), None)

    def require(self) -> None:
        """Refuse what cannot run.

        Raises:
            CapabilityError: a strategy does not fit into memory.
        """
        for strategy in self.strategies:
            if strategy.run and not strategy.run.fits:
                raise CapabilityError(f"{strategy.name}: {strategy.run.cause}", strategy.run.remedy)


def make_plan(
    study: StudySettings,
    base: Base,
    data: StudyData,
    strategies: Sequence[str],
    general: Sequence[Text],
    spent: float = 0.0,
    retention_tokens: int = 0,
) -> Plan:
    """Sizes and predictions for one study.

    Args:
        general: texts on which forgetting is watched.
        spent: seconds of the budget that are gone before.
        retention_tokens: of further tasks on which forgetting is measured.

    Raises:
        ConfigError, DataError: turns are asked for where there are none; training cannot begin.
    """
    begun = time.perf_counter()
    train, folds, answers = data.split.train, len(data.folds), data.task in WRITTEN
    methods = list(dict.fromkeys(m for s in strategies if (m := parts(s)[0])))
    # First: the probes of memory must not begin where those of writing left it.
    probed = probe_methods(study, base, data, methods, general) if methods else {}
    mean_tokens, documents = _documents(study, base, train[:400])
    new_tokens = study.evaluate.new_tokens or longest_answer(base, data, train[:400])
    read, write = rates(base, documents, answers)
    retention = (RETENTION_TOKENS + retention_tokens) / read
    looks = sum(decide(base, *probed[m], 1).look_seconds for m in methods)
    probing = time.perf_counter() - begun  # the study's too
    aside = spent + probing + _preparing_seconds(study, strategies, data, mean_tokens, read, write)
    written = new_tokens / write if write else 0.0
    once = {s: item_tokens(s, study, data, mean_tokens) / read + written for s in strategies}
    fixed = aside + (1 + len(methods)) * retention + trainings(1, folds) * looks
    fixed += further(study, data, study.evaluate.items or MOST_ITEMS)[0] * sum(once.values())
    left = max(30 * study.budget.minutes, 60 * study.budget.minutes - fixed)
    seeds = study.seeds or _seeds(study, base, data, probed, left, looks, strategies, once)
    per_item = {s: _asked(s, strategies, seeds) * seconds for s, seconds in once.items()}
    items, notes = _items(study, len(data.to_ask), left, sum(per_item.values()), folds)
    turns, untold = further(study, data, items)
    asking = {s: per_item[s] * items + once[s] * turns for s in strategies}
    training = _for_training(left, sum(asking.values()))
    share = training / trainings(seeds, folds) / runs_a_method(strategies, study.apart.begin)
    steps, more = _steps(study, base, len(train), share, probed)
    field: tuple[Candidate, ...] = ()
    if searches(study) and methods and not folds:
        # The race and one run for each further seed share the time.
        none = Race(field=(), steps=steps, probed=probed, notes=(*more, NO_RACE))
        race = race_of(study, base, data, general, probed, training / seeds) or none
        field, steps, probed, more = race.field, race.steps, probed | race.probed, [*race.notes]
        aside += race.aside + time.perf_counter() - begun - probing
    runs = {m: decide(base, *x, steps) for m, x in probed.items()}
    times = _runs_in(field) - 1 + trainings(seeds, folds)
    planned = _strategies(study, data, strategies, runs, asking, retention, times)
    minutes = sum(s.minutes for s in planned) + (aside + retention) / 60
    told = told_of_folds(data, seeds, methods, searches(study))
    return Plan(
        items=items,
        new_tokens=new_tokens,
        steps=steps,
        seeds=seeds,
        folds=folds,
        read_tokens_per_s=read,
        write_tokens_per_s=write,
        strategies=planned,
        candidates=field,
        runs=tuple(MethodPlan(method=m, run=run) for m, run in runs.items()),
        minutes=minutes,
        notes=(*told, *notes, *untold, *more, *_over(study, minutes)),
    )


def _for_training(left: float, asking: float) -> float:
    """Seconds: of those that are left, training's share, or what asking leaves of BOTH."""
    return max(TRAIN_SHARE * left, BOTH * left - asking)


def _over(study: StudySettings, minutes: float) -> list[str]:
    """What is said of a study for which the budget is too small."""
    budget = study.budget.minutes
    if minutes <= LATE * budget:
        return []
    return [
        f"The study is expected to take {minutes:.0f} minutes, and the budget is {budget:g}: ask "
        "fewer strategies, or items (evaluate.items), or give it more."
    ]


def _documents(
    study: StudySettings, base: Base, rows: Sequence[Row]
) -> tuple[float, list[list[int]]]:
    """(mean tokens of a row, the rows as tokens), without those that are cut."""
    encoded = encode_rows(base.template, rows, limit(base, study.train))
    documents = [r.ids for r in encoded if not r.cut]
    return sum(map(len, documents)) / max(1, len(documents)), documents


def _seeds(
    study: StudySettings,
    base: Base,
    data: StudyData,
    probed: Probed,
    seconds: float,
    looks: float,
    strategies: Sequence[str],
    once: Mapping[str, float],
) -> int:
    """Seeds where the study leaves them open: one, with folds as many as there is time for.

    Args:
        seconds: of the budget, the watched losses of one training for each fold taken off.
        looks: seconds of those in one training of every method.
        once: strategy -> seconds of an item.
    """
    folds, items = len(data.folds), len(data.to_ask)
    if not folds or not probed:
        return 1
    run = step_seconds(study, base, probed)
    run *= study.train.steps or full_steps(len(data.split.train), study.train)

    def takes(seeds: int) -> float:
        asking = sum(_asked(s, strategies, seeds) * x for s, x in once.items())
        again = trainings(seeds, folds) - trainings(1, folds)
        return items * asking + trainings(seeds, folds) * run + again * looks

    return affordable_seeds((ASK_SHARE + TRAIN_SHARE) * seconds, takes)


def _runs_in(field: Sequence[Candidate]) -> float:
    """Whole runs that a race takes; 1 without one."""
    return COST[min(n for n in COST if n >= max(1, len(field)))]


def _preparing_seconds(
    study: StudySettings,
    strategies: Sequence[str],
    data: StudyData,
    mean_tokens: float,
    read: float,
    write: float,
) -> float:
    """What prompts are chosen with, texts for replay, tuning a retriever, and gates.

    A gate is fitted, and the test items and the retention suite go through it.
    """
    searched, tried = preparing_tokens(strategies, data, mean_tokens)
    if any(prompted(s) == TUNED for s in strategies):
        searched += trainings(1, len(data.folds)) * tuning_tokens()
    if any(is_gated(s) for s in strategies):
        split = data.split
        rows = min(len(split.train), MOST_ROWS) + min(len(split.dev), MOST_DEVELOPMENT) + MOST_ITEMS
        searched += rows * min(mean_tokens, MAX_TOKENS) + RETENTION_TOKENS
    writing = _writing_seconds(study, read, write) if any(parts(s)[0] for s in strategies) else 0.0
    return searched / (ENCODER_FACTOR * read) + tried / read + writing


def _asked(strategy: str, strategies: Sequence[str], seeds: int) -> int:
    """How often a strategy answers every item; a gated one takes the answers of its twin."""
    if is_gated(strategy) and ungated(strategy) in strategies:
        return 0
    return seeds if parts(strategy)[0] else 1


def _writing_seconds(study: StudySettings, read: float, write: float) -> float:
    """What the base writes for replay, once for all methods, and reads again."""
    replay = study.train.replay
    if replay is None or not replay.share or replay.source:
        return 0.0
    tokens = replay.texts * replay.new_tokens
    return tokens / (write or read / 4) + (tokens / read if replay.learn == "base" else 0.0)


def _items(
    study: StudySettings, available: int, seconds: float, per_item: float, folds: int
) -> tuple[int, list[str]]:
    """(test items that every strategy answers, what was shortened)."""
    most = min(available, study.evaluate.items or MOST_ITEMS)
    if study.evaluate.items is not None:
        return most, []
    if folds:  # few rows, and each of them counts: training is what is shortened
        left_out = f"{most} of {available} rows are asked; evaluate.items asks for more."
        return most, [left_out] if most < available else []
    items = min(most, max(FEWEST_ITEMS, int(ASK_SHARE * seconds / max(per_item, 1e-9))))
    if items == most:
        return items, []
    return items, [
        f"{items} of {available} test items are asked, so that the study fits "
        f"into {study.budget.minutes:g} minutes."
    ]


def _steps(
    study: StudySettings,
    base: Base,
    rows: int,
    seconds: float,
    probed: Probed,
) -> tuple[int, list[str]]:
    """(optimiser steps of every trained strategy, what was shortened).

    Args:
        seconds: for one training of every method.
    """
    full = study.train.steps or full_steps(rows, study.train)
    if not probed or study.train.steps is not None:
        return full, []
    each = step_seconds(study, base, probed)
    steps = min(full, max(FEWEST_STEPS, int(seconds / each)))
    if steps == full:
        return full, []
    return steps, [
        f"Training takes {told_steps(steps, rows, study.train)}, so that the study fits into "
        f"{study.budget.minutes:g} minutes."
    ]


def _strategies(
    study: StudySettings,
    data: StudyData,
    names: Sequence[str],
    runs: dict[str, Fit],
    asking: Mapping[str, float],
    retention: float,
    share: float,
) -> tuple[StrategyPlan, ...]:
    """One prediction each; an adapter that two share is trained with the first.

    Args:
        asking: seconds of a strategy's answers.
        share: training of a method's strategies, in whole runs: more than 1 with a search.
    """
    # Looks of a race stand with what it takes beside its runs; each run in folds has its own.
    looked = share if data.folds else 1
    tasks, begin = len(set(data.tasks.values())), study.apart.begin
    trained: set[str] = set()
    found = []
    for name in names:
        method, _ = parts(name)
        run = runs[method] if method else None
        train = check = 0.0
        if run and method not in trained and of_all_tasks([name], begin):
            trained.add(method or "")
            train, check = share * run.train_seconds, looked * run.look_seconds + retention
        if run and is_tasked(name):
            # Together the tasks take as many steps as the adapter of all; each is looked at.
            first = begin == "shared" and side_by_side(method or "")
            train += (2 if first else 1) * share * run.train_seconds
            check += (tasks + first) * (looked * run.look_seconds + retention)
        found.append(
            StrategyPlan(
                name=name,
                ask_minutes=asking[name] / 60,
                train_minutes=train / 60,
                check_minutes=check / 60,
                run=run,
            )
        )
    return tuple(found)
