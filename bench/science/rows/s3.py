"""How fast the change grows with the rank: alpha / r against alpha / √r, with SGD and with Adam."""

import math
from typing import ClassVar

import torch

from bench.science.arms import Arm, Lab, best_rate, runs
from bench.science.rows import ROWS, Finding
from bench.science.verdicts import Criterion, within
from domainwright.core.seeds import derive
from domainwright.models.lowrank import LowRank

UNIT_RANKS = (4, 16, 64, 256)
SIZE = 512
"""Inputs and outputs of the random layer; its largest rank is half of it."""
DRAWS = 48
"""Layers and inputs over which a size is averaged: one of rank 4 differs by a half."""
STEP = 1e-4
RANKS = (4, 64)
ALPHA = 8.0
EXPONENTS = {("sgd", False): -1.0, ("sgd", True): 0.0, ("adam", False): 0.0, ("adam", True): 0.5}
"""(optimiser, rsLoRA) -> of r, in the size of the first update: γ² r with SGD, γ r with Adam."""


@ROWS.register
class S3:
    title = "alpha / r slows large ranks, alpha / √r does not"
    source = "Kalajdzievski 2023, arXiv:2312.03732; the optimiser's part: Chen et al. 2026"
    did = (
        "One step of SGD or Adam from B = 0 on a random layer of 512 by 512, ranks 4, 16, 64 "
        "and 256: the length of the change of the output for the input that was learned, as a "
        "power of the rank. Reported, not judged: LoRA of rank 4 and 64 (alpha 8) learns D1 "
        "with either scale, each at its own best rate, and once more rank 64 at the best rate "
        "of rank 4 with the same scale."
    )
    drawing: ClassVar = ("dots", "loss on D1", "loss on D1, nats per token")
    columns: ClassVar = ("exponent of the rank", "loss on D1", "difference")

    @staticmethod
    def measure(here: Lab) -> Finding:
        figures: dict[str, dict[str, list[float]]] = {}
        criteria: list[Criterion] = []
        for (optimiser, rslora), wanted in EXPONENTS.items():
            name = f"{optimiser}, {_scale(rslora)}"
            found = [exponent(optimiser, rslora, seed) for seed in range(here.effort.seeds)]
            mean = sum(found) / len(found)
            figures[f"first step, {name}"] = {"exponent of the rank": found}
            words = f"exponent of the rank with {name}: {wanted:g} ± 0.05"
            criteria.append(within(words, mean, wanted - 0.05, wanted + 0.05))
        rates = {}
        for rslora in (False, True):
            best = {}
            for rank in RANKS:
                arm = _arm(rank, rslora)
                swept = best_rate(here, arm)
                best[rank], rates[arm.name] = swept.best, swept.losses
                figures[arm.name] = {"loss on D1": _ends(here, arm, swept.best)}
            high = _arm(RANKS[1], rslora)
            figures[f"{high.name}, rate of rank {RANKS[0]}"] = {
                "loss on D1": _ends(here, high, best[RANKS[0]])
            }
        small, large = (figures[_arm(RANKS[1], x).name]["loss on D1"] for x in (False, True))
        figures["rank 64, alpha / r above alpha / √r"] = {
            "difference": [a - b for a, b in zip(small, large, strict=True)]
        }
        return Finding(criteria=criteria, figures=figures, rates=rates)


def _scale(rslora: bool) -> str:
    return "alpha / √r" if rslora else "alpha / r"


def _arm(rank: int, rslora: bool) -> Arm:
    settings = {"rank": rank, "alpha": ALPHA, "rslora": rslora}
    return Arm(name=f"rank {rank}, {_scale(rslora)}", method_settings=settings)


def _ends(here: Lab, arm: Arm, rate: float) -> list[float]:
    return [ran.end["domain"] for ran in runs(here, arm, rate)]


def exponent(optimiser: str, rslora: bool, seed: int) -> float:
    """Slope of log size against log rank, by least squares."""
    sizes = [
        sum(_first_update(optimiser, rslora, rank, seed, draw) for draw in range(DRAWS)) / DRAWS
        for rank in UNIT_RANKS
    ]
    x = torch.tensor([math.log(rank) for rank in UNIT_RANKS], dtype=torch.float64)
    y = torch.tensor([math.log(size) for size in sizes], dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def _first_update(optimiser: str, rslora: bool, rank: int, seed: int, draw: int) -> float:
    """Length of the change of the output for the input that was learned, after one step."""
    source = torch.Generator().manual_seed(derive(seed, "unit", rank, draw))
    bound = 1 / math.sqrt(SIZE)
    A_RI = torch.nn.Parameter(torch.empty(rank, SIZE).uniform_(-bound, bound, generator=source))
    B_OR = torch.nn.Parameter(torch.zeros(SIZE, rank))
    change = LowRank(A_RI, B_OR, ALPHA / (math.sqrt(rank) if rslora else rank))
    W_OI = torch.randn(SIZE, SIZE, generator=source) / math.sqrt(SIZE)
    x_I = torch.randn(SIZE, generator=source)
    target_O = torch.randn(SIZE, generator=source)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimiser]
    stepping = kind([A_RI, B_OR], lr=STEP)
    (change(x_I, W_OI @ x_I) - target_O).square().sum().div(2).backward()
    stepping.step()
    with torch.no_grad():
        return float((change.product_OI() @ x_I).norm())
