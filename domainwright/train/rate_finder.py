"""The range test: how a run's loss answers while its learning rate rises by one factor a step.

    rate_t     low · (high / low)^(t / (T - 1))
    excess_t   loss_t - the base's loss on the same rows
    smooth_t   Σ_k β^(t - k) excess_k / Σ_k β^(t - k)            β = 0.8

The base's loss is taken off because rows differ more than rates do. The suggestion is the middle
of the five steps over which the smoothed excess falls most, of all before its lowest point: there a
rate still gains, and a run at the lowest point itself is about to diverge. The test ends where the
excess has risen over the start by as much as it had fallen, or is no number.

Source: Smith 2017, arXiv:1506.01186, section 3.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from domainwright.core.errors import RunFailed
from domainwright.core.progress import Listener, Step, quiet
from domainwright.train.job import Job
from domainwright.train.passes import Packing
from domainwright.train.step import mean_loss, optimiser_of, take_step, within_memory

SMOOTHING = 0.8
WINDOW = 5
"""Steps over which the fall is measured."""
FEWEST = 8
"""Steps below which nothing can be said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateFound:
    """A range test."""

    rates: list[float]
    losses: list[float]
    """Smoothed loss less the base's, nats per token, after the step at each rate."""
    lowest: float
    """Rate where that is lowest."""
    suggested: float


def find_rate(
    job: Job, low: float, high: float, steps: int = 60, listen: Listener = quiet
) -> RateFound:
    """Run the test. The adapter is afterwards as it was, and the base is bare.

    Args:
        job: a run before its first step; its own rate and schedule do not count.
        low, high: first and last rate, 0 < low < high.
        steps: at least 8.

    Raises:
        RunFailed: the loss never fell.
    """
    settings = replace(job.settings, schedule="constant", warmup_share=0.0, replay=None)
    job = replace(job, settings=settings, replay=(), steps=steps)
    before = job.kept(job.adapter.state_dict())
    optimiser = optimiser_of(job)
    parameters = [p for p in job.adapter.parameters() if p.requires_grad]
    order, excess, rates = job.order, list[float](), np.geomspace(low, high, steps).tolist()
    try:
        with job.adapter.attached():
            for step, rate in enumerate(rates):
                rows = order.step(step)
                packing = Packing(job.base, rows)
                with job.base.hooks.disabled():
                    base_loss = mean_loss(job, packing)
                job, (loss, norm, _) = within_memory(
                    replace(job, learning_rate=rate),
                    rows,
                    lambda now, step=step, packing=packing: take_step(  # type: ignore[misc]
                        now, optimiser, parameters, step, packing
                    ),
                )
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    break
                excess.append(loss - base_loss)
                listen(Step("rates", step + 1, steps, {"rate": f"{rate:.1e}"}))
                if len(excess) >= FEWEST and diverged(smoothed(excess)):
                    break
    finally:
        job.adapter.load_state_dict(before)
    return judged(rates, excess)


def judged(rates: Sequence[float], excess: Sequence[float]) -> RateFound:
    """The suggestion from what was measured, which may have ended early.

    Raises:
        RunFailed: the loss never fell.
    """
    smooth = smoothed(excess)
    # The loss of a step is that before its update: the first one says nothing of any rate.
    lowest = int(np.argmin(smooth)) if len(smooth) else 0
    if lowest < 2 or smooth[lowest] >= smooth[0]:
        raise RunFailed(
            f"At no rate from {rates[0]:.1e} to {rates[-1]:.1e} did the loss fall.",
            "test other rates, or more steps.",
        )
    # Over five steps: from one step to the next, luck falls faster than any rate.
    width = min(WINDOW, lowest)
    falls = smooth[width : lowest + 1] - smooth[: lowest + 1 - width]
    steepest = int(np.argmin(falls)) + width // 2
    return RateFound(
        rates=list(rates[: len(smooth)]),
        losses=[float(x) for x in smooth],
        lowest=rates[lowest],
        suggested=rates[steepest],
    )


def smoothed(values: Sequence[float]) -> np.ndarray:
    """Exponential mean, corrected for its start."""
    total = weight = 0.0
    found = []
    for value in values:
        total, weight = SMOOTHING * total + value, SMOOTHING * weight + 1
        found.append(total / weight)
    return np.array(found)


def diverged(smooth: np.ndarray) -> bool:
    """Whether the loss has risen over its start by as much as it had fallen below it."""
    fallen = smooth[0] - smooth.min()
    return bool(smooth[-1] > smooth[0] + max(fallen, 0.05))
