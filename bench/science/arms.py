"""One arm of a row: what is trained, at which rate, and what became of it.

All arms of a row read the same number of tokens. The rate of each is swept on validation texts with
a seed of its own, in factors of three, and the sweep goes on where the best rate is an outermost
one. What is judged afterwards is measured on test texts, with seeds that the sweep did not see.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from bench.science.t0 import MICRO_TOKENS, Recipe, Texts, World, base_of, texts, world_of
from domainwright.core.errors import RunFailed
from domainwright.core.seeds import derive
from domainwright.methods import METHODS
from domainwright.methods._adapter import Adapter
from domainwright.methods._head import HeadedAdapter
from domainwright.models.base import Base, prepare
from domainwright.models.forms import TrainRow
from domainwright.train import loop
from domainwright.train.job import Job
from domainwright.train.loss import losses_of_rows
from domainwright.train.penalties._penalty import Penalty
from domainwright.train.settings import TrainSettings
from domainwright.train.tasks import balance_of

T = TypeVar("T")
FACTOR = 3.0
SWEEP_SEED = 1_000
FURTHER = 3
"""Most rates that a sweep adds beyond its grid."""
LORA, FULL = 3e-3, 1e-3
"""Centres of the sweeps (methods.md §15.3 has 3e-3 and 3e-4 for this size)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much a row measures."""

    seeds: int = 5
    steps: int = 80
    batch: int = 8
    documents: int = 640
    """Training documents of a seed."""
    held_out: int = 100
    """Documents of every measured language."""
    rates: int = 4
    """Points of a sweep's grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    name: str
    method: str = "lora"
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the run beyond the usual ones."""
    centre: float = LORA
    labels: tuple[str, ...] = ()
    """What a head on it tells apart; none: no head."""
    begin: Callable[[Adapter], None] = lambda adapter: None
    """Changes the adapter before the first step."""


@dataclass(frozen=True, slots=True)
class Lab:
    """What all rows work with."""

    world: World
    base: Base
    effort: Effort

    def train_texts(self, name: str, seed: int, count: int | None = None) -> list[TrainRow]:
        language = self.world.languages[name]
        return texts(self.world, language, "train", count or self.effort.documents, seed=seed).rows

    def held_out(self, name: str, split: str = "test") -> Texts:
        return texts(self.world, self.world.languages[name], split, self.effort.held_out)


def lab(recipe: Recipe, effort: Effort, cache: Path | None = None) -> Lab:
    return Lab(world_of(recipe), base_of(recipe, cache), effort)


@dataclass(frozen=True, slots=True)
class Ran:
    """A run at its end."""

    adapter: Adapter
    curve: list[dict[str, float]]
    """step, domain and general loss, and the divergence from the base, at every check."""

    @property
    def end(self) -> dict[str, float]:
        return self.curve[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What one run reads and what is watched."""

    rows: Sequence[TrainRow]
    watched: Sequence[TrainRow]
    general: Sequence[TrainRow]
    steps: int
    checks: int = 1
    replay: Sequence[TrainRow] = ()
    penalties: Callable[[Adapter], Sequence[Penalty]] = lambda adapter: ()
    base: Base | None = None
    """None: the lab's."""
    shares: Mapping[str, float] | None = None
    """Task -> share of the rows of every step."""


def course(here: Lab, seed: int, *, domain: str = "D1", **changes: Any) -> Course:
    """A seed's texts of a domain, with test texts watched; with SWEEP_SEED, validation texts."""
    split = "validation" if seed == SWEEP_SEED else "test"
    usual = Course(
        rows=here.train_texts(domain, seed),
        watched=here.held_out(domain, split).rows,
        general=here.held_out("G", split).rows,
        steps=here.effort.steps,
    )
    return replace(usual, **changes)


def run(here: Lab, arm: Arm, rate: float, seed: int, plan: Course) -> Ran | None:
    """The arm after its last step; None where it diverged or learned nothing."""
    base = plan.base or here.base
    kind = METHODS.get(arm.method)
    adapter = kind.build(base, kind.Settings(**arm.method_settings), seed)
    arm.begin(adapter)
    if arm.labels:
        adapter = HeadedAdapter(adapter, "classification", arm.labels)
    given: dict[str, Any] = {
        "steps": plan.steps,
        "batch": here.effort.batch,
        "checks": plan.checks,
        "checkpoint_every": 10**9,
        "replay": None,
        "max_forgetting": math.inf,
        **arm.train,
    }
    settings = TrainSettings(**given)
    with TemporaryDirectory() as folder:
        job = Job(
            base=base,
            adapter=adapter,
            rows=plan.rows,
            development=plan.watched,
            general=plan.general,
            settings=settings,
            steps=plan.steps,
            learning_rate=rate,
            micro_tokens=MICRO_TOKENS,
            seed=seed,
            folder=Path(folder),
            run_hash=str(derive(seed, arm.name)),
            replay=plan.replay,
            shares=plan.shares,
            penalties=plan.penalties(adapter),
            balance=balance_of(settings.tasks, plan.rows, seed),
        )
        try:
            trained = loop.train(job)
        except RunFailed:
            return None
    looks = [line for line in trained.history if "development_loss" in line]
    names = {"step": "step", "development_loss": "domain", "general_loss": "general"}
    names |= {"general_kl": "kl"}
    curve = [{names[k]: float(v) for k, v in line.items() if k in names} for line in looks]
    return Ran(adapter, curve)


def all_of(arm: Arm, found: Sequence[T | None]) -> list[T]:
    """What every seed gave.

    Raises:
        RunFailed: a seed's run failed at the rate that was best in the sweep.
    """
    there = [x for x in found if x is not None]
    failed = len(found) - len(there)
    if failed:
        raise RunFailed(
            f"{arm.name} failed in {failed} of {len(found)} runs at the best rate of its sweep.",
            "lower the centre of the sweep.",
        )
    return there


def runs(here: Lab, arm: Arm, rate: float, **changes: Any) -> list[Ran]:
    """The arm with every seed."""
    seeds = range(here.effort.seeds)
    return all_of(
        arm, [run(here, arm, rate, seed, course(here, seed, **changes)) for seed in seeds]
    )


@dataclass(frozen=True, slots=True)
class Swept:
    losses: dict[float, float]
    """Rate -> validation loss; infinite where the run failed."""

    @property
    def best(self) -> float:
        return min(self.losses, key=self.losses.__getitem__)


def sweep(
    loss_at: Callable[[float], float], centre: float, points: int, factor: float = FACTOR
) -> Swept:
    """Rates around the centre, and further while the best one is outermost."""
    first = -((points - 1) // 2)
    losses = {centre * factor**n: loss_at(centre * factor**n) for n in range(first, first + points)}
    for _ in range(FURTHER):
        best = Swept(losses).best
        if best == max(losses):
            rate = best * factor
        elif best == min(losses):
            rate = best / factor
        else:
            break
        losses[rate] = loss_at(rate)
    return Swept(dict(sorted(losses.items())))


def best_rate(here: Lab, arm: Arm, points: int | None = None, **changes: Any) -> Swept:
    """The arm's sweep on the validation texts of its domain."""

    def loss_at(rate: float) -> float:
        ran = run(here, arm, rate, SWEEP_SEED, course(here, SWEEP_SEED, **changes))
        return ran.end["domain"] if ran else math.inf

    return sweep(loss_at, arm.centre, points or here.effort.rates)


def loss_of(base: Base, rows: Sequence[TrainRow]) -> float:
    """Nats per token of what hangs on the base now."""
    with torch.no_grad():
        return sum(losses_of_rows(base, rows, MICRO_TOKENS)) / sum(r.targets for r in rows)


def merged(base: Base, adapter: Adapter) -> Base:
    """A base of its own with the adapter's change in its weights."""
    values = {name: value.detach().clone() for name, value in adapter.merged_parameters()}
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        for name, value in values.items():
            model.get_parameter(name).copy_(value)
    return prepare(model, base.tokenizer, base.source, base.sha256)
