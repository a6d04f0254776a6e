"""How a run fits into its memory budget: tokens a pass, gradient checkpointing, and how long.

The passes of every planned step are known beforehand, so time and peak are sums over the real
ones. Checkpointing is taken where the longest document would not fit without it, not for
larger passes: it costs a third more time, and small passes cost next to nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from domainwright.core.errors import CapabilityError
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.train.memory import MARGIN, budget_mib, largest_pass
from domainwright.train.order import Order, micro_batches, passes_of, replayed_in_step, tokens_of
from domainwright.train.probe import Costs, probe, work
from domainwright.train.settings import TrainSettings

STEPS = 64
"""Steps whose passes are counted one by one; more are taken to be like them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One run, as predicted."""

    memory_gb: float | None
    """The budget it was made for; None: the machine's."""
    steps: int
    micro_tokens: int
    gradient_checkpointing: bool
    peak_mib: float
    train_seconds: float
    """Optimiser steps and checkpoints."""
    check_seconds: float
    """Development and general loss, at the start and at every check."""
    checks: int
    cause: str = ""
    """Why it does not fit; empty: it does."""
    remedy: str = ""

    @property
    def fits(self) -> bool:
        return not self.cause

    @property
    def run_seconds(self) -> float:
        """What the run's own clock will show: it starts after the first check."""
        return self.train_seconds + self.check_seconds * self.checks / (1 + self.checks)

    def require(self) -> "Fit":
        """Itself.

        Raises:
            CapabilityError: it does not fit.
        """
        if not self.fits:
            raise CapabilityError(self.cause, self.remedy)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a run is to be."""

    rows: Sequence[TrainRow]
    watched: Sequence[TrainRow]
    """Development rows, then general ones, read at every check."""
    development: int
    """How many of them are development rows."""
    settings: TrainSettings
    seed: int
    memory_gb: float | None
    replay: Sequence[TrainRow] = ()
    """General rows to be read too, as `settings.replay` says."""
    shares: Mapping[str, float] | None = None
    """Task -> share of the rows that are read; None: every row once an epoch."""

    @property
    def order(self) -> Order:
        return Order(self.rows, self.settings.batch, self.seed, self.shares)

    @property
    def longest(self) -> int:
        """Tokens of the longest document that is trained on."""
        return max(len(r.ids) for r in (*self.rows, *self.replay))

    def general(self, step: int) -> list[TrainRow]:
        """What a step reads beside its own rows."""
        share = self.settings.replay.share if self.settings.replay else 0.0
        return replayed_in_step(self.replay, self.settings.batch, share, self.seed, step)


def fit(base: Base, build: Callable[[], Adapter], wish: Wish, steps: int) -> Fit:
    """Probe and decide; see `measure` and `decide`."""
    costs, recompute = measure(base, build, wish)
    return decide(base, wish, costs, steps, recompute)


def measure(base: Base, build: Callable[[], Adapter], wish: Wish) -> tuple[Costs, bool]:
    """(costs, whether blocks are computed twice). A second probe where the first does not fit.

    Args:
        build: makes an adapter like the run's, for the probe.
    """
    asked = wish.settings.gradient_checkpointing
    costs = probe(base, build, wish.rows, wish.settings, recompute=asked is True)
    if asked != "auto" or _most(base, wish, costs) >= _needed(wish):
        return costs, asked is True
    return probe(base, build, wish.rows, wish.settings, recompute=True), True


def per_step(base: Base, wish: Wish, costs: Costs, steps: int = STEPS) -> tuple[float, int]:
    """(seconds of a mean step, tokens of the largest pass)."""
    seconds, largest = 0.0, 0
    counted, micro, order = min(steps, STEPS), pass_tokens(base, wish, costs), wish.order
    for step in range(counted):
        rows = order.step(step)
        general = wish.general(step)
        passes = passes_of(rows, general, micro)
        for group in ([*own, *more] for own, more in passes):
            flops, tokens = work(base, group, apart=costs.apart)
            largest = max(largest, tokens)
            seconds += costs.seconds(flops)
    return seconds / counted, largest


def decide(base: Base, wish: Wish, costs: Costs, steps: int, recompute: bool) -> Fit:
    """The run of `steps` steps at these costs."""
    settings = wish.settings
    most, needed = _most(base, wish, costs), _needed(wish)
    micro = pass_tokens(base, wish, costs)
    mean, largest = per_step(base, wish, costs, steps)
    read = [sum(len(r.ids) for r in g) for g in micro_batches(wish.watched, micro)]
    peak = costs.peak_mib(largest, max(read, default=0))
    checks = settings.checks_in(steps)
    cause, remedy = "", ""
    if most < needed:
        cause, remedy = _refusal(base, wish, costs, recompute)
    return Fit(
        memory_gb=wish.memory_gb,
        steps=steps,
        micro_tokens=micro,
        gradient_checkpointing=recompute,
        peak_mib=round(peak, 1),
        train_seconds=mean * steps + costs.checkpoint_seconds * saves(settings, steps),
        check_seconds=costs.reading_seconds_per_token * sum(read) * (1 + checks),
        checks=checks,
        cause=cause,
        remedy=remedy,
    )


def pass_tokens(base: Base, wish: Wish, costs: Costs) -> int:
    """Tokens of a pass: what is asked for, else as many as fit and gain anything."""
    longest = wish.longest
    most = min(_most(base, wish, costs), largest_pass(base.device))
    return wish.settings.micro_tokens or max(longest, most)


def _most(base: Base, wish: Wish, costs: Costs) -> int:
    """Most tokens that one training pass may have within the budget."""
    budget = budget_mib(base.device, wish.memory_gb) * (1 - MARGIN)
    return costs.training.tokens(budget - costs.resident_mib - costs.kept_mib)


def _needed(wish: Wish) -> int:
    """Tokens of the largest pass there must be: the longest document, or the passes asked for."""
    if wish.settings.micro_tokens is None:
        return wish.longest
    order, micro = wish.order, wish.settings.micro_tokens
    return max(
        tokens_of([*own, *more])
        for step in range(STEPS)
        for own, more in passes_of(order.step(step), wish.general(step), micro)
    )


def saves(settings: TrainSettings, steps: int) -> int:
    """Checkpoints that a run writes."""
    return -(-steps // settings.checkpoint_every)


def _refusal(base: Base, wish: Wish, costs: Costs, recompute: bool) -> tuple[str, str]:
    """(what does not fit, what would)."""
    most, needed = _most(base, wish, costs), _needed(wish)
    gigabytes = costs.peak_mib(needed, 0) / (1 - MARGIN) * 2**20 / 1e9
    budget = budget_mib(base.device, wish.memory_gb) * 2**20 / 1e9
    cause = (
        f"Training on {base.source.name} needs about {gigabytes:.2f} GB for a pass of {needed} "
        f"tokens{' with gradient checkpointing' if recompute else ''}, and the budget is "
        f"{budget:.2f} GB."
    )
    # Rounded up: what is typed next must not be refused again.
    advice = [f"raise budget.memory_gb to {math.ceil(10 * gigabytes) / 10:.1f}"]
    if most >= wish.longest:
        advice.append(f"lower train.micro_tokens to {most}")
    elif most >= 2:
        advice.append(f"lower train.max_tokens to {most}")
    if not recompute:
        advice.append("set `train: {gradient_checkpointing: true}`")
    return cause, ", ".join([*advice, "or take a smaller base."])
