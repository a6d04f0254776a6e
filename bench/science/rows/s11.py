"""A stream of four domains: what EWC, replay, O-LoRA, an adapter for each save of the earlier."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from bench.science.arms import (
    FULL,
    SWEEP_SEED,
    Arm,
    Lab,
    Swept,
    all_of,
    best_rate,
    course,
    loss_of,
    merged,
    run,
    sweep,
)
from bench.science.rows import ROWS, Finding
from bench.science.t0 import DOMAINS
from bench.science.verdicts import Criterion, at_least
from domainwright.core.progress import quiet
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.train.penalties._penalty import Penalty
from domainwright.train.penalties.ewc import EwcPenalty, fisher_of
from domainwright.train.penalties.o_lora import OLoraPenalty
from domainwright.train.regimes import ReplaySettings

SHARE = 0.1
AGAIN = 64
"""Documents of every earlier domain that replay may read."""
FISHER = 48
"""Documents of a domain on which its Fisher information is found."""
WEIGHT, WEIGHTS, POWER = 1e3, 4, 10.0
"""EWC's weight is swept, too: the centre, how many, and the factor between them."""
NAIVE = Arm(name="naive", method="full", centre=FULL)
EWC = Arm(name="ewc", method="full", centre=FULL)
REPLAY = Arm(
    name="replay", method="full", centre=FULL, train={"replay": ReplaySettings(share=SHARE)}
)
OWN = Arm(name="own adapters", method_settings={"rank": 8, "alpha": 16.0})
BESIDE = replace(OWN, name="lora beside lora")
O_LORA = replace(OWN, name="o-lora")
APART = 0.5
"""Centre of the sweep of O-LoRA's weight, with as many points as EWC's."""

BESIDE_DID = (
    "In the arm lora beside lora each domain gets a LoRA of rank 8 of its own, learned while those "
    "of the earlier domains stay and act, and all of them answer every text; o-lora adds "
    "weight · Σ |A_i Aᵀ| (Wang et al. 2023, arXiv:2310.14152), its weight chosen as EWC's is."
)
"""For the page, of results that have these arms."""
Matrix = list[list[float]]
"""[i][j]: loss on domain j before any stage (i = 0) and after stage i."""


@ROWS.register
class S11:
    title = (
        "EWC and replay forget less over a stream of domains; an adapter for each forgets nothing"
    )
    source = "Kirkpatrick et al. 2017, arXiv:1612.00796; Chaudhry et al. 2019, arXiv:1902.10486"
    did = (
        "Full fine-tuning learns D1 to D4 one after the other, half the usual steps each: "
        "plainly; with EWC, whose Fisher information is found on each domain when it is learned"
        " and added up; with 10 % of the documents drawn from 64 of every earlier domain. "
        "Rates, and EWC's weight, are chosen by the mean validation loss of all domains at the "
        "end. Last, every domain gets a LoRA adapter of its own, and a text is read with that "
        "of its domain. R[i, j] is the loss on domain j after stage i; backward transfer is the"
        " mean of R[j, j] - R[4, j] for j < 4, forward transfer that of R[0, j] - R[j - 1, j] "
        "for j > 1. A low rate learns each domain less and so loses "
        "less of it: the mean loss at the end says more than the transfer alone."
    )
    drawing: ClassVar = ("curves", "stage", "loss on D1 after it, nats per token")
    columns: ClassVar = (
        "backward transfer",
        "forward transfer",
        "mean loss at the end",
        "loss on G at the end",
    )

    @staticmethod
    def measure(here: Lab) -> Finding:
        swept, weight_of = _swept(here)
        matrices: dict[str, list[Matrix]] = {}
        general: dict[str, list[float]] = {}
        for arm in (NAIVE, EWC, REPLAY, BESIDE, O_LORA):
            found = [
                stream(here, arm, swept[arm.name].best, seed, weight_of.get(arm.name, 0.0))
                for seed in range(here.effort.seeds)
            ]
            done = all_of(arm, found)
            matrices[arm.name] = [x.matrix for x in done]
            general[arm.name] = [x.general for x in done]
        swept["own adapters"] = best_rate(here, OWN)
        own, same = own_adapters(here, swept["own adapters"].best)
        matrices["own adapters"] = own
        backward = {name: [backward_transfer(m) for m in x] for name, x in matrices.items()}
        criteria = [
            at_least(
                f"{name} has a better backward transfer than {other}",
                _over(backward, name, other),
                0.0,
            )
            for name, other in (
                ("ewc", "naive"),
                ("replay", "naive"),
                ("o-lora", "naive"),
                ("o-lora", "lora beside lora"),
            )
        ]
        words = "with an adapter for each domain every loss stays bit for bit"
        criteria.append(Criterion(words, same, "all equal" if same else "some differ"))
        return Finding(
            criteria=criteria,
            figures=_figures(matrices, backward, general),
            rates={name: s.losses for name, s in swept.items()},
            curves={
                name: [(i, sum(m[i][0] for m in x) / len(x)) for i in range(1, len(DOMAINS) + 1)]
                for name, x in matrices.items()
            },
        )

    @staticmethod
    def extra(figures: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
        """Lines of the page: every arm's matrix, means over seeds."""
        lines = ["", BESIDE_DID] if "o-lora" in figures else []
        lines += ["", "Loss on every domain after every stage, means over seeds:", ""]
        lines += [f"| arm | stage | {' | '.join(DOMAINS)} |", "| --- " * (len(DOMAINS) + 2) + "|"]
        for arm, own in figures.items():
            for i in range(len(DOMAINS) + 1):
                cells = [own[f"{domain} after stage {i}"] for domain in DOMAINS]
                means = " | ".join(f"{sum(x) / len(x):.3f}" for x in cells)
                lines.append(f"| {arm} | {i} | {means} |")
        return lines


@dataclass(frozen=True, slots=True)
class Streamed:
    matrix: Matrix
    general: float
    """Loss on G at the end."""


def _swept(here: Lab) -> tuple[dict[str, Swept], dict[str, float]]:
    """(rates and weights of the arms, the best weight of those that have one)."""
    swept = {arm.name: _rates(here, arm) for arm in (NAIVE, REPLAY, BESIDE)}
    weight_of = dict[str, float]()
    for arm, plain, centre in ((EWC, NAIVE, WEIGHT), (O_LORA, BESIDE, APART)):
        rate = swept[plain.name].best
        weights = sweep(lambda x, a=arm, r=rate: _end(here, a, r, x), centre, WEIGHTS, POWER)
        swept[f"{arm.name}, weight"] = weights
        weight_of[arm.name] = best = weights.best
        swept[arm.name] = sweep(
            lambda x, a=arm, w=best: _end(here, a, x, w), rate, here.effort.rates
        )
    return swept, weight_of


def _figures(
    matrices: Mapping[str, list[Matrix]],
    backward: Mapping[str, list[float]],
    general: Mapping[str, list[float]],
) -> dict[str, dict[str, list[float]]]:
    figures = {
        name: {
            "backward transfer": backward[name],
            "forward transfer": [forward_transfer(m) for m in x],
            "mean loss at the end": [sum(m[-1]) / len(m[-1]) for m in x],
            **{
                f"{domain} after stage {i}": [m[i][j] for m in x]
                for i in range(len(DOMAINS) + 1)
                for j, domain in enumerate(DOMAINS)
            },
        }
        for name, x in matrices.items()
    }
    for name, losses in general.items():
        figures[name]["loss on G at the end"] = losses
    return figures


def stream(here: Lab, arm: Arm, rate: float, seed: int, weight: float) -> Streamed | None:
    """The domains one after the other; None where a stage failed."""
    if arm in (BESIDE, O_LORA):
        return beside(here, arm, rate, seed, weight)
    split = "validation" if seed == SWEEP_SEED else "test"
    base = here.base
    matrix = [_losses(here, base, split)]
    earlier: list[TrainRow] = []
    fisher: dict = {}
    for domain in DOMAINS:
        rows = here.train_texts(domain, seed)

        replays = arm is REPLAY and bool(earlier)
        steps = here.effort.steps // 2
        plan = course(
            here,
            seed,
            domain=domain,
            rows=rows,
            base=base,
            steps=round(steps * (1 - SHARE)) if replays else steps,
            replay=list(earlier) if replays else (),
            penalties=partial(_pull, dict(fisher), weight),
        )
        ran = run(here, arm, rate, seed, plan)
        if ran is None:
            return None
        base = merged(base, ran.adapter)
        matrix.append(_losses(here, base, split))
        earlier += rows[:AGAIN]
        if arm is EWC:
            names = [name for name, _ in ran.adapter.replacements()]
            for name, value in fisher_of(base, names, rows[:FISHER], seed, quiet).items():
                fisher[name] = fisher.get(name, 0) + value
    return Streamed(matrix, loss_of(base, here.held_out("G", split).rows))


def beside(here: Lab, arm: Arm, rate: float, seed: int, weight: float) -> Streamed | None:
    """A LoRA for each domain in turn, beside those of the earlier ones, which stay."""
    split = "validation" if seed == SWEEP_SEED else "test"
    matrix = [_losses(here, here.base, split)]
    past: tuple[str, ...] = ()
    with TemporaryDirectory() as folder:
        for domain in DOMAINS:
            plan = course(
                here,
                seed,
                domain=domain,
                steps=here.effort.steps // 2,
                penalties=partial(_apart, weight),
            )
            stage = replace(arm, method_settings={**arm.method_settings, "past": past})
            ran = run(here, stage, rate, seed, plan)
            if ran is None:
                return None
            place = Path(folder) / domain
            ran.adapter.save(place)
            past = (str(place),)
            with ran.adapter.attached():
                matrix.append(_losses(here, here.base, split))
                general = loss_of(here.base, here.held_out("G", split).rows)
    return Streamed(matrix, general)


def _apart(weight: float, adapter: Adapter) -> Sequence[Penalty]:
    return (OLoraPenalty(adapter, weight),) if weight else ()


def _pull(fisher: dict, weight: float, adapter: Adapter) -> Sequence[Penalty]:
    return (EwcPenalty(adapter, weight, fisher),) if fisher else ()


def own_adapters(here: Lab, rate: float) -> tuple[list[Matrix], bool]:
    """(matrices, whether no loss changed after its domain was learned)."""
    start = _losses(here, here.base, "test")
    matrices, same = [], True
    for seed in range(here.effort.seeds):
        adapters: list[Adapter] = []
        matrix = [start]
        for domain in DOMAINS:
            plan = course(here, seed, domain=domain, steps=here.effort.steps // 2)
            (ran,) = all_of(OWN, [run(here, OWN, rate, seed, plan)])
            adapters.append(ran.adapter)
            now = list(start)
            for j, adapter in enumerate(adapters):
                with adapter.attached():
                    now[j] = loss_of(here.base, here.held_out(DOMAINS[j]).rows)
            same &= now[: len(adapters) - 1] == matrix[-1][: len(adapters) - 1]
            matrix.append(now)
        matrices.append(matrix)
    return matrices, same


def backward_transfer(matrix: Matrix) -> float:
    """Mean fall of the loss on a domain from when it was learned to the end.

    >>> backward_transfer([[5.0, 5.0], [2.0, 4.0], [3.0, 2.0]])
    -1.0
    """
    stages = len(matrix) - 1
    return sum(matrix[j + 1][j] - matrix[-1][j] for j in range(stages - 1)) / (stages - 1)


def forward_transfer(matrix: Matrix) -> float:
    """Mean fall of the loss on a domain from the base to just before it is learned.

    >>> forward_transfer([[5.0, 5.0], [2.0, 4.0], [3.0, 2.0]])
    1.0
    """
    stages = len(matrix) - 1
    return sum(matrix[0][j] - matrix[j][j] for j in range(1, stages)) / (stages - 1)


def _losses(here: Lab, base: Base, split: str) -> list[float]:
    return [loss_of(base, here.held_out(domain, split).rows) for domain in DOMAINS]


def _end(here: Lab, arm: Arm, rate: float, weight: float = 0.0) -> float:
    """Mean validation loss of all domains after the stream."""
    found = stream(here, arm, rate, SWEEP_SEED, weight)
    return sum(found.matrix[-1]) / len(DOMAINS) if found else math.inf


def _rates(here: Lab, arm: Arm) -> Swept:
    return sweep(lambda rate: _end(here, arm, rate), arm.centre, here.effort.rates)


def _over(backward: dict[str, list[float]], name: str, other: str) -> list[float]:
    return [a - b for a, b in zip(backward[name], backward[other], strict=True)]
