"""Training runs before they are planned: what each method costs, and who races whom."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.core.records import Text
from domainwright.curate.split import Split
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.studies._beginnings import build
from domainwright.studies._choice import of_all_tasks
from domainwright.studies._labels import labels_of
from domainwright.studies._replay import planned_rows
from domainwright.studies._watched import limit
from domainwright.studies.data import StudyData
from domainwright.studies.records import Candidate
from domainwright.studies.search import (
    FACTORS,
    FAMILIES,
    VISITS,
    candidates,
    further_looks,
    size_of_race,
)
from domainwright.studies.study import StudySettings
from domainwright.studies.tune import preflight, wish_of, with_labels
from domainwright.train.epochs import full_steps, told_steps
from domainwright.train.fit import Wish, decide, measure, per_step
from domainwright.train.probe import Costs
from domainwright.train.tasks import with_tasks

Probed = dict[str, tuple[Wish, Costs]]
"""Method -> (its run, what it costs)."""
BUILD_SECONDS = 0.5
"""Making an adapter and tokenising the rows once more."""


ASKED_MIB, ENCODER_MIB = 240, 90
"""Measured in a study on a CPU: libraries that mark answers, products compiled for prompts and for
steps of many lengths; and the sentence encoder. A probe sees none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Who takes part in the search, and for how long."""

    field: tuple[Candidate, ...]
    steps: int
    probed: Probed
    notes: tuple[str, ...]
    aside: float = 0.0
    """Seconds beside the candidates' steps."""


def race_of(
    study: StudySettings,
    base: Base,
    data: StudyData,
    general: Sequence[Text],
    probed: Probed,
    seconds: float,
) -> Race | None:
    """The race for which training has time; None: for one run at most.

    Args:
        probed: the stand-in's probe.
        seconds: that training may take in all.
    """
    full = full_steps(len(data.split.train), study.train)
    known, found, out, count = dict(probed), probed, list[str](), 27
    aside = _aside_seconds(base, probed, full)
    while True:
        # Methods differ in what a step takes, and are probed only where there may be time for them.
        each = step_seconds(study, base, found) / len(found)
        steps_of = {size: x / each for size, x in aside.items()}
        size, steps = size_of_race(seconds / each, full, study.train.steps, steps_of, count)
        if size == 1:
            return None
        if size == count and found is not probed:
            break
        found, out = _entered(study, base, data, general, known, size)
        count = size
    untried = [m for m in FAMILIES if m not in found and not any(m in x for x in out)]
    time = f" No time to try: {', '.join(untried)}." if untried else ""
    field = candidates(base, list(found), count, steps, study.train.batch)
    told = told_steps(steps, len(data.split.train), study.train)
    note = (
        f"The search races {len(field)} candidates for {told}, so that "
        f"the study fits into {study.budget.minutes:g} minutes.{time}"
    )
    return Race(field=field, steps=steps, probed=found, notes=(note, *out), aside=aside[count])


def probe_methods(
    study: StudySettings,
    base: Base,
    data: StudyData,
    methods: Sequence[str],
    general: Sequence[Text],
) -> Probed:
    """Method -> (its run, what it costs).

    Rows are in the base's own tokens: with new words of an adapter a run takes a little less.

    Raises:
        ConfigError: `new_tokens` where losses of different tokens would be compared.
    """
    _check_new_tokens(study, methods)
    rows = _probed(study, data)
    labels = labels_of(rows.train, study.train)
    kept, _ = preflight(base, rows.train, study.train)
    kept = with_tasks(kept, data.tasks)
    memory = study.budget.memory_gb
    looked = data.looked_at(study.train)
    wish = wish_of(base, kept, rows.dev, general, looked, study.seed, memory)
    measured = [*general, *data.to_ask]
    replay = planned_rows(base, study.train, measured, limit(base, study.train))
    wish = replace(wish, replay=replay, shares=data.shares)
    if data.alike:
        wish = with_labels(wish, rows.train, rows.dev)
    found = {}
    for method in methods:
        settings = study.methods.get(method, {})

        def begin(method: str = method, settings: dict = settings) -> Adapter:
            return build(base, method, settings, study.seed, labels)

        costs = measure(base, begin, wish)
        resident = costs.resident_mib + _held_later_mib(study, base)
        found[method] = (wish, replace(costs, resident_mib=resident))
    return found


def _check_new_tokens(study: StudySettings, methods: Sequence[str]) -> None:
    named = [m for m in methods if study.methods.get(m, {}).get("new_tokens")]
    if named and searches(study):
        raise ConfigError(
            f"The search compares losses per token, and methods.{named[0]}.new_tokens makes other "
            "tokens of the same text.",
            f"name the method: `strategies: [zero_shot, {named[0]}]`, or leave `new_tokens` out.",
        )
    distil = study.train.distil
    if named and distil is not None and distil.learn == "logits":
        raise ConfigError(
            f"train.distil.learn is 'logits', and no teacher knows the tokens of "
            f"methods.{named[0]}.new_tokens.",
            "set `train: {distil: {learn: sequences}}`, or leave `new_tokens` out.",
        )


def _probed(study: StudySettings, data: StudyData) -> Split:
    """The rows of a run: where each task alone has a head, of the largest task."""
    lessons, named = data.lessons, study.strategies
    if not study.train.head or of_all_tasks(named, study.apart.begin) or "auto" in named:
        return lessons
    tasks = [data.tasks.get(row.id, "") for row in lessons.train]
    largest = max(sorted(set(tasks)), key=tasks.count)
    rows = [
        tuple(r for r in part if data.tasks.get(r.id, "") == largest)
        for part in (lessons.train, lessons.dev)
    ]
    return replace(lessons, train=rows[0], dev=rows[1] or rows[0])


def _held_later_mib(study: StudySettings, base: Base) -> int:
    """What a study holds when it trains and does not yet when it plans."""
    if base.device.type != "cpu":
        return 0
    finds = ("auto", "few_shot", "rag", "gated")
    encoder = any(word in name for name in study.strategies for word in finds)
    return ASKED_MIB + ENCODER_MIB * encoder


def step_seconds(study: StudySettings, base: Base, probed: Probed) -> float:
    """One optimiser step of every method, with its share of the checkpoints."""
    each = sum(
        per_step(base, wish, costs)[0] + costs.checkpoint_seconds / study.train.checkpoint_every
        for wish, costs in probed.values()
    )
    return max(each, 1e-9)


def _aside_seconds(base: Base, probed: Probed, steps: int) -> dict[int, float]:
    """Candidates -> a race beside its steps: taking them up, looks, and reading at every rung."""
    wish, costs = next(iter(probed.values()))
    run = decide(base, wish, costs, steps)
    tokens = sum(len(r.ids) for r in wish.watched[: wish.development])
    visit = tokens * costs.reading_seconds_per_token + costs.checkpoint_seconds + BUILD_SECONDS
    look = run.check_seconds / (1 + run.checks)
    return {n: times * visit + further_looks(n, run.checks) * look for n, times in VISITS.items()}


def searches(study: StudySettings) -> bool:
    """Whether a study looks for the method and its learning rate by itself."""
    return study.strategies == ("auto",) and study.train.learning_rate is None


def _entered(
    study: StudySettings,
    base: Base,
    data: StudyData,
    general: Sequence[Text],
    known: Probed,
    count: int,
) -> tuple[Probed, list[str]]:
    """(the methods of a race of `count`, probed; which were left out, and why).

    Args:
        known: what was probed before; what is probed now is added.
    """
    wanted = count // (len(FACTORS) if count >= 9 else 1)
    found: Probed = {}
    out = []
    for method in FAMILIES:
        if len(found) == wanted:
            break
        try:
            if method not in known:
                known |= probe_methods(study, base, data, [method], general)
            decide(base, *known[method], 1).require()
        except CapabilityError as error:
            out.append(f"{method} was not tried: {error.cause}")
            continue
        found[method] = known[method]
    return found, out
