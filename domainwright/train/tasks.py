"""Several tasks in one run: how their losses are weighed, and what is done where they pull apart.

    tokens        Σ_i (tokens of i / tokens) L_i          as without this setting
    documents     Σ_i (n_i / n) L_i                       long answers do not count more
    uncertainty   Σ_i (n_i / n) [ e^(-s_i) L_i + s_i / 2 ]

L_i is the mean loss of task i's tokens in the step and n_i its documents there. s_i is learned
beside the adapter, from 0, by s_i <- s_i - rate · (1/2 - e^(-s_i) L_i): at rest e^(s_i) = 2 L_i, so
a task weighs 1 / (2 L_i), and one that cannot be learned well does not drown the others.

With `conflicts: pcgrad` every task's gradient g_i loses what points against another's: in a drawn
order over the others j, where g_i · g_j < 0

    g_i <- g_i - (g_i · g_j / ‖g_j‖²) g_j                 g_j as it was

and the sum of what is left is the step's. Replayed rows and penalties are added to it as they are.

Sources: Kendall, Gal and Cipolla 2018, arXiv:1705.07115, equation 10; Yu et al. 2020,
arXiv:2001.06782, algorithm 1.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any, Literal

import torch
from torch import Tensor

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.seeds import generator
from domainwright.models.forms import TrainRow
from domainwright.train.passes import Packing


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """How the tasks of a run share its steps. A file is a task; `task:` beside it names it."""

    weighting: Literal["tokens", "documents", "uncertainty"] = "tokens"
    conflicts: Literal["sum", "pcgrad"] = "sum"
    """What is done with gradients that point against each other."""
    rate: float = 0.1
    """Of the uncertainties s_i."""

    def __post_init__(self) -> None:
        if self.weighting == "tokens" and self.conflicts == "sum":
            raise ConfigError(
                "train.tasks asks for what is done anyway.",
                "set `weighting: documents`, `weighting: uncertainty` or `conflicts: pcgrad`, or "
                "leave `tasks` out.",
            )
        if not 0 < self.rate <= 1:
            raise ConfigError(
                f"train.tasks.rate is {self.rate}, outside (0, 1].", "give a rate such as 0.1."
            )


@dataclass(slots=True)
class Balance:
    """The tasks of one run, and what is learned about them on the way."""

    settings: TaskSettings
    seed: int
    uncertainty: dict[str, float] = field(default_factory=dict)
    """Task -> s_i."""

    def state_dict(self) -> dict[str, Tensor]:
        return {k: torch.tensor(v, dtype=torch.float64) for k, v in self.uncertainty.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.uncertainty = {k: float(v) for k, v in state.items()}

    def add_gradients(
        self,
        packing: Packing,
        step: int,
        parameters: Sequence[torch.nn.Parameter],
        read: Callable[[str, Packing, float], float],
        told: dict[str, Any],
    ) -> float:
        """Put the step's gradient where the optimiser looks; the mean loss of all its tokens.

        Args:
            parameters: without gradients yet.
            read: adds the gradient of factor · mean loss of a task's rows, and gives the mean loss.
        """
        parts = packing.by_task()
        losses, gradients = dict[str, float](), list[list[Tensor | None]]()
        for task, part in parts.items():
            losses[task] = read(task, part, self.weight(task, part, packing))
            if self.settings.conflicts == "pcgrad":
                gradients.append([p.grad for p in parameters])
                for p in parameters:
                    p.grad = None
        if gradients:
            order = generator(self.seed, "pcgrad", step)
            told["conflicts"] = without_conflicts(gradients, order.permutation)
            for p, *own in zip(parameters, *gradients, strict=True):
                there = [g for g in own if g is not None]
                p.grad = sum(there[1:], start=there[0]) if there else None
        told["task_losses"] = losses
        if self.settings.weighting == "uncertainty":
            self.learn(losses)
            told["task_weights"] = {k: math.exp(-v) for k, v in self.uncertainty.items()}
        return sum(losses[k] * part.targets for k, part in parts.items()) / packing.targets

    def weight(self, task: str, part: Packing, whole: Packing) -> float:
        """How much the task's mean loss counts in this step."""
        if self.settings.weighting == "tokens":
            return part.targets / whole.targets
        share = len(part.rows) / len(whole.rows)
        return share * math.exp(-self.uncertainty[task])

    def learn(self, losses: Mapping[str, float]) -> None:
        """One step of the uncertainties of the tasks that were read."""
        for task, loss in losses.items():
            pull = 0.5 - math.exp(-self.uncertainty[task]) * loss
            # A loss that is far off, as in a first step, must not throw the weight away.
            self.uncertainty[task] -= self.settings.rate * max(-1.0, min(1.0, pull))


def balance_of(
    settings: TaskSettings | None, rows: Sequence[TrainRow], seed: int
) -> Balance | None:
    """For these training rows; None where nothing is asked.

    Raises:
        DataError: all are of one task.
    """
    if settings is None:
        return None
    tasks = sorted({row.task for row in rows})
    if len(tasks) < 2:
        raise DataError(
            f"train.tasks is set, and the training rows are of one task, {tasks[0] or 'unnamed'}.",
            "give each task a file of its own with `task:`, or leave `train.tasks` out.",
        )
    return Balance(settings, seed, dict.fromkeys(tasks, 0.0))


def with_tasks(rows: Sequence[TrainRow], tasks: Mapping[str, str]) -> list[TrainRow]:
    """Documents with their row's task; pieces of a text have its id and a number."""
    return [
        replace(row, task=tasks.get(row.id) or tasks.get(row.id.rpartition("#")[0], ""))
        for row in rows
    ]


def without_conflicts(
    gradients: list[list[Tensor | None]], drawn: Callable[[int], Iterable[int]]
) -> float:
    """Project every task's gradient, in place; the share of ordered pairs that were in conflict.

    Args:
        gradients: one list over the parameters per task; None: no gradient.
        drawn: count -> a permutation of so many numbers.
    """
    as_they_were = [list(own) for own in gradients]
    lengths = [_product(own, own) for own in as_they_were]
    met = 0
    for i, own in enumerate(gradients):
        for j in map(int, drawn(len(gradients))):
            if j == i or not lengths[j]:
                continue
            along = _product(own, as_they_were[j])
            if along >= 0:
                continue
            met += 1
            for n, other in enumerate(as_they_were[j]):
                if other is not None:
                    change = other * (along / lengths[j])
                    mine = own[n]
                    own[n] = -change if mine is None else mine - change
    return met / max(1, len(list(permutations(gradients, 2))))


def _product(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """Inner product over all parameters, summed in float64."""
    return sum(
        float(torch.dot(a.flatten().double(), b.flatten().double()))
        for a, b in zip(one, other, strict=True)
        if a is not None and b is not None
    )
