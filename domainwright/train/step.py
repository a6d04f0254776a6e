"""One optimiser step of one candidate, and the losses that are watched.

    gradient = ∇ Σ loss over the supervised tokens of the step / number of those tokens

The sum is divided once per optimiser step by all its supervised tokens: a mean of means
over micro-batches of unequal length would weigh short answers more (transformers #34191).
Dropout follows from (seed, step) alone, so a resumed run is bit-identical.

Where memory runs out, the step is begun again with half the tokens a pass, from the same
seed: without dropout it is the step of a run that began with that size. Dropout's noise is
drawn pass by pass, so there the redone step is another draw of the same distribution.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from domainwright.core import machine
from domainwright.core.errors import CapabilityError, RunFailed
from domainwright.core.seeds import derive
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.train import schedule
from domainwright.train.job import Job
from domainwright.train.loss import summed_loss
from domainwright.train.memory import halved, out_of_memory
from domainwright.train.passes import Packing

T = TypeVar("T")


def optimiser_of(job: Job) -> torch.optim.Optimizer:
    """AdamW over the adapter's groups; each has its own factor on the learning rate."""
    return torch.optim.AdamW(
        [{"params": group, "factor": factor} for group, factor in job.adapter.rate_groups()],
        lr=job.learning_rate,
        betas=(0.9, 0.999),
        weight_decay=job.settings.weight_decay,
        fused=fused(job.base),
    )


def fused(base: Base) -> bool:
    """Whether the optimiser has a fused update there."""
    return base.device.type in ("cpu", "cuda")


def take_step(
    job: Job,
    optimiser: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    step: int,
    rows: Sequence[TrainRow] | Packing,
) -> tuple[float, float, int]:
    """One optimiser step: (mean loss, gradient norm before clipping, tokens read)."""
    packing = rows if isinstance(rows, Packing) else Packing(job.base, rows)
    loss = add_gradients(job, optimiser, step, packing)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, job.settings.clip))
    if math.isfinite(norm):
        update(job, optimiser, step)
    return loss, norm, packing.tokens


def add_gradients(job: Job, optimiser: torch.optim.Optimizer, step: int, packing: Packing) -> float:
    """Put the step's gradient where the optimiser looks; the step's mean loss."""
    total = 0.0
    optimiser.zero_grad(set_to_none=True)
    with torch.random.fork_rng(), job.adapter.learning(step, job.steps):
        torch.manual_seed(derive(job.seed, "step", step))
        for batch in packing.passes(job.micro_tokens):
            loss = summed_loss(job.base, *batch)
            (loss / packing.targets).backward()
            total += float(loss.detach())
    return total / packing.targets


def update(job: Job, optimiser: torch.optim.Optimizer, step: int) -> None:
    """One update. It must not be redone: out of memory, a part of its state may be there."""
    rate = job.learning_rate * schedule.factor(
        job.settings.schedule, step, job.steps, job.settings.warmup_share, job.settings.decay_share
    )
    for parameter_group in optimiser.param_groups:
        parameter_group["lr"] = rate * parameter_group.get("factor", 1.0)
    try:
        optimiser.step()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise CapabilityError(
            f"Memory ran out for the optimiser's state: {str(error).partition(chr(10))[0]}",
            "lower the method's rank or targets, free memory, and add --resume.",
        ) from error


def within_memory(job: Job, rows: Sequence[TrainRow], work: Callable[[Job], T]) -> tuple[Job, T]:
    """(the job as it went through, what `work` gave), with ever smaller passes until it fits.

    Raises:
        CapabilityError: not even one document at a time fits.
    """
    while True:
        try:
            return job, work(job)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            said = str(error).partition("\n")[0]
        # Here, not above: the error holds the frames, and they hold the activations.
        smaller = halved(job.micro_tokens, rows)
        if smaller is None:
            longest = max(len(row.ids) for row in rows)
            advice = "" if job.recompute else "set `train: {gradient_checkpointing: true}`, "
            raise CapabilityError(
                f"Memory ran out on a single document (the longest has {longest} tokens): {said}",
                f"{advice}lower train.max_tokens, free memory, or take a smaller base.",
            )
        machine.give_back()
        job = replace(job, micro_tokens=smaller)


class Watched:
    """The rows whose losses decide which state is kept, packed once for the run."""

    def __init__(self, job: Job) -> None:
        self.rows = [*job.development, *job.general]
        self.packings = {
            "development": Packing(job.base, job.development),
            "general": Packing(job.base, job.general),
        }

    def losses(self, job: Job, step: int) -> dict[str, float]:
        """Losses of what hangs on the base now.

        Raises:
            RunFailed: one of them is no number.
        """
        found = {}
        for name, packing in self.packings.items():
            found[f"{name}_loss"] = value = mean_loss(job, packing)
            if packing.rows and not math.isfinite(value):
                raise RunFailed(
                    f"The loss on {name} rows is {value} at step {step}: the run diverged.",
                    "lower train.learning_rate by a factor of 3 to 10; at step 0, load the base "
                    "in float32.",
                )
        return found


def mean_loss(job: Job, rows: Sequence[TrainRow] | Packing) -> float:
    """Mean loss in nats per supervised token, no gradient. NaN without rows."""
    packing = rows if isinstance(rows, Packing) else Packing(job.base, rows)
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in packing.passes(job.micro_tokens):
            total, count = total + float(summed_loss(job.base, *batch)), count + len(batch[2])
    return total / count if count else math.nan
