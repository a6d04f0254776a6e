"""Temperature mixing for small tasks; gradients that pull apart, with and without PCGrad."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from bench.science.arms import (
    SWEEP_SEED,
    Arm,
    Lab,
    Ran,
    Swept,
    all_of,
    course,
    loss_of,
    run,
    sweep,
)
from bench.science.rows import ROWS, Finding
from bench.science.t0 import Language, texts
from bench.science.verdicts import at_least, at_most
from domainwright.core.seeds import generator
from domainwright.curate.mixing import MixSettings, shares
from domainwright.models.forms import TrainRow
from domainwright.train.tasks import TaskSettings

TASKS = {"D1": 10, "D2": 1, "D3": 1}
"""Domain -> its part of the documents."""
MIXES = {
    "proportional": MixSettings(kind="proportional"),
    "temperature 3": MixSettings(kind="temperature", temperature=3.0),
}
CONFLICTS = {
    "sum": TaskSettings(weighting="documents"),
    "pcgrad": TaskSettings(weighting="documents", conflicts="pcgrad"),
}
TOLERANCE = 0.02
"""Nats per token: as much as two arms may differ on tasks that do not conflict."""


@ROWS.register
class S12:
    title = "Temperature mixing protects small tasks; PCGrad helps where tasks conflict"
    source = "Raffel et al. 2020, arXiv:1910.10683; Yu et al. 2020, arXiv:2001.06782"
    did = (
        "LoRA of rank 16 learns D1, D2 and D3 with documents 10 : 1 : 1, mixed in proportion or"
        " at temperature 3, as many documents in all. Then it learns D1 together with a D1 "
        "whose facts are shuffled (a conflict that nothing in a text gives away), or with D2, "
        "all tasks alike, with the sum of the gradients or with PCGrad. Each arm at its own "
        "best rate by the mean validation loss of its tasks."
    )
    drawing: ClassVar = ("dots", "worst", "loss of the worst task, nats per token")
    columns: ClassVar = ("D1", "D2", "D3", "D1 shuffled", "worst", "mean")

    @staticmethod
    def measure(here: Lab) -> Finding:
        swept: dict[str, Swept] = {}
        losses: dict[str, list[dict[str, float]]] = {}
        for name, mix in MIXES.items():
            _arm(here, Arm(name=name), mix, swept, losses)
        flipped = flipped_facts(here.world.languages["D1"])
        for pair, languages in {
            "conflict": [here.world.languages["D1"], flipped],
            "no conflict": [here.world.languages[n] for n in ("D1", "D2")],
        }.items():
            for kind, settings in CONFLICTS.items():
                arm = Arm(name=f"{pair}, {kind}", train={"tasks": settings})
                _arm(here, arm, languages, swept, losses)
        return Finding(
            criteria=_criteria(losses),
            figures={
                name: {
                    **{task: [x[task] for x in own] for task in own[0]},
                    "worst": [max(x.values()) for x in own],
                    "mean": _means(own),
                }
                for name, own in losses.items()
            },
            rates={name: s.losses for name, s in swept.items()},
        )


def _criteria(losses: dict[str, list[dict[str, float]]]) -> list:
    worst = {name: [max(x.values()) for x in own] for name, own in losses.items()}
    gain = [a - b for a, b in zip(worst["proportional"], worst["temperature 3"], strict=True)]
    apart = {
        pair: [
            a - b
            for a, b in zip(
                _means(losses[f"{pair}, pcgrad"]), _means(losses[f"{pair}, sum"]), strict=True
            )
        ]
        for pair in ("conflict", "no conflict")
    }
    return [
        at_least("temperature 3 lowers the worst task's loss", gain, 0.0),
        at_most("PCGrad is not above the sum where tasks conflict", apart["conflict"], 0.0),
        at_most(
            f"and at most {TOLERANCE} above it where they do not", apart["no conflict"], TOLERANCE
        ),
        at_least(f"nor {TOLERANCE} below it", apart["no conflict"], -TOLERANCE),
    ]


def _means(losses: Sequence[dict[str, float]]) -> list[float]:
    return [sum(x.values()) / len(x) for x in losses]


def _arm(
    here: Lab,
    arm: Arm,
    tasks: MixSettings | list[Language],
    swept: dict[str, Swept],
    losses: dict[str, list[dict[str, float]]],
) -> None:
    """Sweep the arm's rate and measure it with every seed."""
    languages = (
        [here.world.languages[n] for n in TASKS] if isinstance(tasks, MixSettings) else tasks
    )

    part = here.effort.documents // sum(TASKS.values())
    sizes = {name: times * part for name, times in TASKS.items()}
    share = shares(sizes, tasks) if isinstance(tasks, MixSettings) else None

    def rows(seed: int) -> list[TrainRow]:
        if share:
            return [r for name, n in sizes.items() for r in here.train_texts(name, seed, n)]
        half = here.effort.documents // 2
        return [r for x in tasks for r in texts(here.world, x, "train", half, seed=seed).rows]

    def measured(rate: float, seed: int, split: str) -> dict[str, float] | None:
        ran: Ran | None = run(
            here, arm, rate, seed, course(here, seed, rows=rows(seed), shares=share)
        )
        if ran is None:
            return None
        with ran.adapter.attached():
            return {
                x.name: loss_of(here.base, texts(here.world, x, split, here.effort.held_out).rows)
                for x in languages
            }

    def validated(rate: float) -> float:
        found = measured(rate, SWEEP_SEED, "validation")
        return _means([found])[0] if found else float("inf")

    swept[arm.name] = sweep(validated, arm.centre, here.effort.rates)
    found = [measured(swept[arm.name].best, s, "test") for s in range(here.effort.seeds)]
    losses[arm.name] = all_of(arm, found)


def flipped_facts(language: Language) -> Language:
    """The same language with every fact's value taken from another fact."""
    keys, values = list(language.facts), list(language.facts.values())
    order = generator(0, "flipped", language.name).permutation(len(values))
    facts = dict(zip(keys, (values[i] for i in order), strict=True))
    return replace(language, name=f"{language.name} shuffled", facts=facts)
