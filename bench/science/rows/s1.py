"""LoRA on all layers matches full fine-tuning on modest data, at about ten times its rate."""

import math
from typing import ClassVar

from bench.science.arms import (
    FULL,
    SWEEP_SEED,
    Arm,
    Lab,
    Swept,
    best_rate,
    course,
    run,
    runs,
    sweep,
)
from bench.science.rows import ROWS, Finding
from bench.science.verdicts import at_least, at_most

ARMS = (
    Arm(name="full", method="full", centre=FULL),
    Arm(name="lora", method_settings={"rank": 16, "alpha": 32.0}),
)
FROZEN = Arm(
    name="full, embeddings frozen",
    method="full",
    method_settings={"embeddings": False},
    centre=FULL,
)
"""Not judged: it tells how much of a gap is what LoRA leaves alone, not its rank."""
RATES = 5


@ROWS.register
class S1:
    title = "LoRA on all layers matches full fine-tuning; its best rate is about ten times as high"
    source = "Schulman and Thinking Machines Lab 2025 (LoRA Without Regret)"
    did = (
        "LoRA of rank 16 (alpha 32, every linear layer) and full fine-tuning learn D1. Each is "
        "swept over five rates or more, anew in every seed, by the loss on validation texts; "
        "the gap is that of the two test losses at each seed's own best rates. The best rate "
        "itself is where a parabola through the three lowest neighbouring points has its lowest"
        " point. Beside them, not judged, full fine-tuning with embeddings and head frozen, as "
        "LoRA leaves them; its gap is LoRA's over it."
    )
    drawing: ClassVar = ("rates", "learning rate", "validation loss on D1, nats per token")
    columns: ClassVar = ("test loss", "gap", "best rate")

    @staticmethod
    def measure(here: Lab) -> Finding:
        swept: dict[str, list[Swept]] = {arm.name: [] for arm in ARMS}
        test: dict[str, list[float]] = {arm.name: [] for arm in ARMS}
        for seed in range(here.effort.seeds):
            for arm in ARMS:
                found, ends = _swept(here, arm, seed)
                swept[arm.name].append(found)
                test[arm.name].append(ends[found.best])
        best = {name: [vertex(s.losses) for s in own] for name, own in swept.items()}
        gap = _over(test["lora"], test["full"])
        ratio = [math.log10(a / b) for a, b in zip(best["lora"], best["full"], strict=True)]
        criteria = [
            at_most("LoRA's test loss is at most 2 % above full fine-tuning's", gap, 0.02),
            at_least(
                "log10 of LoRA's best rate over full's is log10(4) or more", ratio, math.log10(4)
            ),
            at_most("and log10(30) or less", ratio, math.log10(30)),
        ]
        frozen = best_rate(here, FROZEN)
        losses = [ran.end["domain"] for ran in runs(here, FROZEN, frozen.best)]
        return Finding(
            criteria=criteria,
            figures={
                FROZEN.name: {"test loss": losses, "gap": _over(test["lora"], losses)},
                "full": {"test loss": test["full"], "best rate": best["full"]},
                "lora": {"test loss": test["lora"], "best rate": best["lora"], "gap": gap},
            },
            rates={
                **{name: _mean(own) for name, own in swept.items()},
                FROZEN.name: frozen.losses,
            },
        )


def _swept(here: Lab, arm: Arm, seed: int) -> tuple[Swept, dict[float, float]]:
    """(validation losses, rate -> test loss) of one seed's training texts."""
    validation = course(here, SWEEP_SEED).watched
    test = here.held_out("D1").rows
    ends: dict[float, float] = {}

    def loss_at(rate: float) -> float:
        # The general rows of a run are those on which it is only watched: here the test texts.
        plan = course(here, seed, watched=validation, general=test)
        ran = run(here, arm, rate, seed, plan)
        ends[rate] = ran.end["general"] if ran else math.inf
        return ran.end["domain"] if ran else math.inf

    return sweep(loss_at, arm.centre, RATES), ends


def vertex(losses: dict[float, float]) -> float:
    """The rate of the lowest loss: of a parabola in the logarithm of the rate, or of the grid.

    >>> round(vertex({1.0: 2.0, 10.0: 1.0, 100.0: 2.0}), 3)
    10.0
    """
    rates = sorted(losses)
    at = min(range(len(rates)), key=lambda i: losses[rates[i]])
    if not 0 < at < len(rates) - 1:
        return rates[at]
    x = [math.log(rate) for rate in rates[at - 1 : at + 2]]
    low, middle, high = (losses[rate] for rate in rates[at - 1 : at + 2])
    if not (math.isfinite(low) and math.isfinite(high)) or low + high <= 2 * middle:
        return rates[at]
    step = (x[2] - x[0]) / 2
    return math.exp(x[1] + step * (low - high) / (2 * (low - 2 * middle + high)))


def _over(mine: list[float], other: list[float]) -> list[float]:
    """How far a loss lies above another, as a share of it."""
    return [a / b - 1 for a, b in zip(mine, other, strict=True)]


def _mean(own: list[Swept]) -> dict[float, float]:
    """The mean over seeds at the rates that all of them have."""
    common = sorted(set.intersection(*(set(s.losses) for s in own)))
    return {rate: sum(s.losses[rate] for s in own) / len(own) for rate in common}
