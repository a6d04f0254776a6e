"""How much each training row pulls the model where the development rows want it: LESS.

    g_row           m' / √(v' + 1e-8),   m' = 0.9 m + 0.1 g,   v' = 0.999 v + 0.001 g²
    g_development   g
    influence       Σ_t rate_t · c_t / Σ_t rate_t,
                    c_t the mean over development rows of cos(g_row, g_development)

with g the gradient of a row's mean loss per token, m and v the state of Adam after epoch t of a
LoRA warm-up on some of the rows, and rate_t the mean learning rate of that epoch. The paper keeps
every gradient for goals that are yet to come, and so projects them; here one goal is known, only
the mean of its directions is held, and whole gradients are exact and less work. As in the released
code, m' and v' are not corrected for their start.

Source: Xia et al. 2024, LESS, arXiv:2402.04333.

Dimension key: N rows, P trainable numbers of the LoRA.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from domainwright.core.artifacts import sha256_json
from domainwright.core.config import as_mapping
from domainwright.core.errors import DataError, RunFailed
from domainwright.core.progress import Listener, Step
from domainwright.core.records import Row
from domainwright.core.seeds import generator
from domainwright.curate.dataset import row_as_json
from domainwright.curate.selection import Selection
from domainwright.curate.selection.influence import Influence
from domainwright.methods import METHODS, usual_rate
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow, encode_rows
from domainwright.train.job import Job
from domainwright.train.loss import batch_of, summed_loss
from domainwright.train.settings import TrainSettings
from domainwright.train.step import optimiser_of, take_step, within_memory

LEAST_ROWS = 16
"""Of the warm-up."""
BATCH = 8
MICRO_TOKENS = 2048
ATTENTION = ("q", "k", "v", "o", "qkv")
"""Layers that the warm-up adapts; all of them where a base has none of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Adam's state of all trainable numbers, one parameter after the other."""

    first_P: Tensor
    second_P: Tensor

    def next_update(self, gradient_P: Tensor) -> Tensor:
        """Where Adam would go if this were the next gradient."""
        first_P = 0.9 * self.first_P + 0.1 * gradient_P
        second_P = 0.999 * self.second_P + 0.001 * gradient_P**2
        return first_P / (second_P + 1e-8).sqrt()


def kept_influence(
    rows: Sequence[Row],
    development: Sequence[Row],
    wanted: Selection,
    *,
    base: Callable[[], Base],
    max_tokens: int,
    seed: int,
    cache: Path,
    listen: Listener,
) -> np.ndarray:
    """`influence`, read from `cache` where it was found for these very rows before."""
    assert isinstance(wanted, Influence), "only influence asks for influences"
    if not development:
        raise DataError(
            "influence compares rows with development rows, and there are none.",
            "give data.development or a larger data.development_share, or select by k_center.",
        )
    loaded = base()
    texts = [[row_as_json(row) for row in part] for part in (rows, development)]
    key = [loaded.sha256, str(loaded.dtype), as_mapping(wanted), max_tokens, seed, texts]
    file = cache / f"influence-{sha256_json(key)[:24]}.safetensors"
    try:
        return load_file(file)["influence"]
    except (OSError, SafetensorError):
        found = influence(
            loaded, rows, development, wanted, max_tokens=max_tokens, seed=seed, listen=listen
        )
    cache.mkdir(parents=True, exist_ok=True)
    save_file({"influence": found}, file)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """A short LoRA run whose states are looked at."""

    job: Job
    optimiser: torch.optim.Optimizer
    parameters: list[torch.nn.Parameter]

    @classmethod
    def of(cls, base: Base, lessons: Sequence[TrainRow], wanted: Influence, seed: int) -> "WarmUp":
        """The run before its first step."""
        method = METHODS.get("lora")
        points = {layer.point for layer in base.hooks.linears}
        targets = tuple(p for p in ATTENTION if p in points) or ("all-linear",)
        settings = method.Settings(rank=wanted.rank, alpha=2.0 * wanted.rank, targets=targets)
        batch = min(BATCH, len(lessons))
        job = Job(
            base=base,
            adapter=method.build(base, settings, seed),
            rows=lessons,
            development=(),
            general=(),
            settings=TrainSettings(batch=batch, replay=None),
            steps=wanted.epochs * math.ceil(len(lessons) / BATCH),
            learning_rate=usual_rate("lora", base.parameters, batch),
            micro_tokens=MICRO_TOKENS,
            seed=seed,
            folder=Path(),
            run_hash="",
        )
        parameters = [p for p in job.adapter.parameters() if p.requires_grad]
        return cls(job=job, optimiser=optimiser_of(job), parameters=parameters)

    def train(self, first: int, steps: int, listen: Listener) -> float:
        """Take `steps` steps from number `first` on; their mean learning rate.

        Raises:
            RunFailed: a loss or a gradient is no number.
        """
        rates, order = 0.0, self.job.order
        for step in range(first, first + steps):
            rows = order.step(step)

            def take(job: Job, step: int = step, rows: list[TrainRow] = rows) -> float:
                return take_step(job, self.optimiser, self.parameters, step, rows)[1]

            _, norm = within_memory(self.job, rows, take)
            if not math.isfinite(norm):
                raise RunFailed(
                    f"The warm-up of influence diverged at step {step}.",
                    "load the base with `dtype: float32`, or select by another method.",
                )
            rates += self.optimiser.param_groups[0]["lr"]
            listen(Step("warm up to select", step + 1, self.job.steps))
        return rates / steps

    def moments(self) -> Moments:
        """The optimiser's state now."""
        first, second = (
            torch.cat([self.optimiser.state[p][name].flatten() for p in self.parameters])
            for name in ("exp_avg", "exp_avg_sq")
        )
        return Moments(first_P=first, second_P=second)

    def gradient(self, documents: Sequence[TrainRow]) -> Tensor:
        """Gradient (P) of a row's mean loss per token; a long text is several documents."""
        base, targets = self.job.base, sum(document.targets for document in documents)
        found_P = torch.zeros(sum(p.numel() for p in self.parameters), device=base.device)
        for document in documents:
            if document.targets:
                loss = summed_loss(base, *batch_of(base, [document])) / targets
                parts = torch.autograd.grad(loss, self.parameters)
                found_P += torch.cat([part.flatten() for part in parts])
        return found_P


def influence(
    base: Base,
    rows: Sequence[Row],
    development: Sequence[Row],
    wanted: Influence,
    *,
    max_tokens: int,
    seed: int,
    listen: Listener,
) -> np.ndarray:
    """Influence (N) of each row, a mean cosine; NaN where a row teaches no token.

    Raises:
        DataError: no development row teaches a token.
        RunFailed: the warm-up diverged.
    """
    encoded = [encode_rows(base.template, [row], max_tokens) for row in rows]
    train = {n: found for n, found in enumerate(encoded) if any(x.targets for x in found)}
    watched = [encode_rows(base.template, [row], max_tokens) for row in development]
    watched = [found for found in watched if any(x.targets for x in found)]
    if not train or not watched:
        raise DataError(
            f"No answer has a token within the first {max_tokens}.", "raise train.max_tokens."
        )
    count = max(LEAST_ROWS, math.ceil(wanted.share * len(train)))
    drawn = generator(seed, "warm-up").permutation(list(train))[:count]
    lessons = [document for n in drawn.tolist() for document in train[n] if document.targets]
    run = WarmUp.of(base, lessons, wanted, seed)
    each = run.job.steps // wanted.epochs
    value_N, rates = torch.full((len(rows),), math.nan), 0.0
    value_N[list(train)] = 0.0
    with run.job.adapter.attached():
        for epoch in range(wanted.epochs):
            rate = run.train(epoch * each, each, listen)
            # One after the other: only their mean is held.
            goal_P = sum(normalize(run.gradient(x), dim=0) / len(watched) for x in watched)
            moments = run.moments()
            for place, (number, found) in enumerate(train.items(), 1):
                direction_P = normalize(moments.next_update(run.gradient(found)), dim=0)
                value_N[number] += rate * float(direction_P @ goal_P)
                listen(Step("compare gradients", place, len(train)))
            rates += rate
    return (value_N / rates).numpy()
