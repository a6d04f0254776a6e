"""How a run fits into its memory budget: tokens a pass, gradient checkpointing, offload, how long.

The passes of every planned step are known beforehand, so time and peak are sums over the real
ones. Checkpointing and offload are taken where the longest document would not fit without them,
not for larger passes: they cost time, and small passes cost next to nothing. Offload comes first
where it alone is enough, for it costs the same however many tokens a step has. Where checkpointing
is not enough it is added if that moves much: an adapter's moments are small beside activations.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from domainwright.core.errors import CapabilityError
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.train.draw_back import USUAL_LOOKS
from domainwright.train.memory import MARGIN, MIB, Meter, budget_mib, largest_pass
from domainwright.train.order import Order, micro_batches, passes_of, replayed_in_step, tokens_of
from domainwright.train.probe import Costs, probe, work
from domainwright.train.settings import TrainSettings

STEPS = 64
"""Steps whose passes are counted one by one; more are taken to be like them."""
WORTH = 0.1
"""Share of what is needed that offload must move to be tried beside checkpointing, or advised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One run, as predicted."""

    memory_gb: float | None
    """The budget it was made for; None: the machine's."""
    steps: int
    micro_tokens: int
    gradient_checkpointing: bool
    offload: bool = False
    peak_mib: float
    train_seconds: float
    """Optimiser steps and checkpoints."""
    check_seconds: float
    """Development and general loss, at the start and at every check."""
    checks: int
    draw_back_seconds: float = 0.0
    """Looks at shares of a state that forgets too much. Few runs need any: not in `run_seconds`."""
    cause: str = ""
    """Why it does not fit; empty: it does."""
    remedy: str = ""

    @property
    def fits(self) -> bool:
        return not self.cause

    @property
    def look_seconds(self) -> float:
        """Every look that a run may take."""
        return self.check_seconds + self.draw_back_seconds

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
    return decide(base, wish, measure(base, build, wish), steps)


def measure(base: Base, build: Callable[[], Adapter], wish: Wish) -> Costs:
    """Costs of the way that is taken: the first one that fits, else the one that needs least.

    Args:
        build: makes an adapter like the run's, for the probe.
    """
    settings, needed = wish.settings, _needed(wish)
    twice, may_move = settings.gradient_checkpointing, settings.offload == "auto"

    def tried(*, recompute: bool, offload: bool) -> Costs:
        return probe(base, build, wish.rows, settings, recompute=recompute, offload=offload)

    def fits(costs: Costs, moved_mib: float = 0.0) -> bool:
        return _most(base, wish, costs, moved_mib) >= needed

    move = settings.offload is True or (may_move and _too_large(base, build, wish))
    costs = tried(recompute=twice is True, offload=move)
    if may_move and not fits(costs) and fits(costs, costs.movable_mib):
        costs = tried(recompute=costs.recompute, offload=True)
    if twice == "auto" and not fits(costs):
        costs = tried(recompute=True, offload=costs.offload)
    worth = costs.movable_mib > WORTH * costs.peak_mib(needed, 0)
    if may_move and worth and not fits(costs):
        costs = tried(recompute=costs.recompute, offload=True)
    return costs


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
    return seconds / counted + costs.update_seconds, largest


def decide(base: Base, wish: Wish, costs: Costs, steps: int) -> Fit:
    """The run of `steps` steps at these costs."""
    settings = wish.settings
    most, needed = _most(base, wish, costs), _needed(wish)
    micro = pass_tokens(base, wish, costs)
    mean, largest = per_step(base, wish, costs, steps)
    read = [sum(len(r.ids) for r in g) for g in micro_batches(wish.watched, micro)]
    general = sum(len(r.ids) for r in wish.watched[wish.development :])
    peak = costs.peak_mib(largest, max(read, default=0))
    checks = settings.checks_in(steps)
    cause, remedy = "", ""
    if most < needed:
        cause, remedy = _refusal(base, wish, costs)
    return Fit(
        memory_gb=wish.memory_gb,
        steps=steps,
        micro_tokens=micro,
        gradient_checkpointing=costs.recompute,
        offload=costs.offload,
        peak_mib=round(peak, 1),
        train_seconds=mean * steps + costs.checkpoint_seconds * saves(settings, steps),
        check_seconds=costs.reading_seconds_per_token * sum(read) * (1 + checks),
        checks=checks,
        draw_back_seconds=costs.reading_seconds_per_token * (USUAL_LOOKS * general + sum(read)),
        cause=cause,
        remedy=remedy,
    )


def pass_tokens(base: Base, wish: Wish, costs: Costs) -> int:
    """Tokens of a pass: what is asked for, else as many as fit and gain anything."""
    longest = wish.longest
    most = min(_most(base, wish, costs), largest_pass(base.device))
    return wish.settings.micro_tokens or max(longest, most)


def _most(base: Base, wish: Wish, costs: Costs, moved_mib: float = 0.0) -> int:
    """Most tokens that one training pass may have within the budget."""
    budget = budget_mib(base.device, wish.memory_gb) * (1 - MARGIN)
    return costs.training.tokens(budget - costs.resident_mib - costs.kept_mib + moved_mib)


def _too_large(base: Base, build: Callable[[], Adapter], wish: Wish) -> bool:
    """Whether weights, gradients and moments alone are over the budget: no probe may hold them."""
    room = (budget_mib(base.device, wish.memory_gb) - Meter(base.device).reset()) * MIB
    if 16 * base.parameters <= room:
        return False
    return 4 * sum(p.nbytes for p in build().parameters() if p.requires_grad) > room


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


def _refusal(base: Base, wish: Wish, costs: Costs) -> tuple[str, str]:
    """(what does not fit, what would)."""
    most, needed = _most(base, wish, costs), _needed(wish)
    gigabytes = costs.peak_mib(needed, 0) / (1 - MARGIN) * 2**20 / 1e9
    budget = budget_mib(base.device, wish.memory_gb) * 2**20 / 1e9
    ways = ["gradient checkpointing"] * costs.recompute + ["offload"] * costs.offload
    cause = (
        f"Training on {base.source.name} needs about {gigabytes:.2f} GB for a pass of {needed} "
        f"tokens{' with ' * bool(ways)}{' and '.join(ways)}, and the budget is {budget:.2f} GB."
    )
    # Rounded up: what is typed next must not be refused again.
    advice = [f"raise budget.memory_gb to {math.ceil(10 * gigabytes) / 10:.1f}"]
    if most >= wish.longest:
        advice.append(f"lower train.micro_tokens to {most}")
    elif most >= 2:
        advice.append(f"lower train.max_tokens to {most}")
    if not costs.recompute:
        advice.append("set `train: {gradient_checkpointing: true}`")
    if costs.movable_mib > WORTH * costs.peak_mib(needed, 0):
        advice.append("set `train: {offload: true}`")
    return cause, ", ".join([*advice, "or take a smaller base."])
