"""One optimiser step of one candidate, and the losses that are watched.

    gradient = ∇ Σ loss over the supervised tokens of the step / number of those tokens
    with r general rows beside b own ones, and penalties:
    gradient = ∇ [ b / (b + r) · own mean  +  r / (b + r) · general mean  +  Σ penalties ]

The sum is divided once per optimiser step by all its supervised tokens: a mean of means
over micro-batches of unequal length would weigh short answers more (transformers #34191).
General rows are weighed as documents: a text teaches every token and an answer a few, so counted
by tokens one text would outweigh the whole batch. A step without any is that of a run without.
Dropout follows from (seed, step) alone, so a resumed run is bit-identical.

Where memory runs out, the step is begun again with half the tokens a pass, from the same
seed: without dropout it is the step of a run that began with that size. Dropout's noise is
drawn pass by pass, so there the redone step is another draw of the same distribution.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from domainwright.core import machine
from domainwright.core.errors import CapabilityError, RunFailed
from domainwright.core.seeds import derive
from domainwright.models.forms import TrainRow
from domainwright.train import schedule
from domainwright.train.job import Job
from domainwright.train.loss import losses_of_rows, summed_loss, summed_loss_of_each
from domainwright.train.memory import halved, out_of_memory
from domainwright.train.mixout import mixed
from domainwright.train.monitor import Monitor
from domainwright.train.noise import EmbeddingNoise, embedding_noise
from domainwright.train.order import replayed_in_step
from domainwright.train.passes import Packing
from domainwright.train.recompute import spared
from domainwright.train.shaped import Shape, shaped_loss
from domainwright.train.shelf import ShelvedAdamW

T = TypeVar("T")


def optimiser_of(job: Job) -> torch.optim.Optimizer:
    """AdamW over the adapter's groups; each has its own factor on the learning rate.

    Of each group matrices and vectors (gains, biases, scales) have a weight decay of their own.

    Raises:
        OSError: the disk has no room for a state that is to lie there.
    """
    settings, groups = job.settings, list[dict[str, Any]]()
    for group, factor in job.adapter.rate_groups():
        vectors = [p for p in group if p.dim() < 2]
        matrices = [p for p in group if p.dim() >= 2]
        for part, decay in ((matrices, settings.weight_decay), (vectors, settings.vector_decay)):
            if part:
                groups.append({"params": part, "factor": factor, "weight_decay": decay})
    rate = job.learning_rate
    fused = job.base.device.type in ("cpu", "cuda")
    if job.offload:
        return ShelvedAdamW(groups, job.shelf, lr=rate, betas=(0.9, 0.999), fused=fused)
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), fused=fused)


def take_step(
    job: Job,
    optimiser: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    step: int,
    rows: Sequence[TrainRow] | Packing,
    told: dict[str, Any] | None = None,
) -> tuple[float, float, int]:
    """One optimiser step: (mean loss, gradient norm before clipping, tokens read).

    Args:
        told: gets what else the step measured, as `kl` or `replay_loss`.
    """
    packing = rows if isinstance(rows, Packing) else Packing(job.base, rows)
    loss = add_gradients(job, optimiser, step, packing, told)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, job.settings.clip))
    if math.isfinite(norm):
        update(job, optimiser, step)
    read = packing.tokens * shape_of(job).copies + sum(len(r.ids) for r in general_rows(job, step))
    return loss, norm, read


def general_rows(job: Job, step: int) -> list[TrainRow]:
    """What a step reads beside its own rows."""
    replay = job.settings.replay
    if replay is None:
        return []
    return replayed_in_step(job.replay, job.settings.batch, replay.share, job.seed, step)


def shape_of(job: Job) -> Shape:
    """What the run asks of its own rows beyond likelihood."""
    anchor = sum(x.anchor for x in job.penalties)
    return Shape(job.settings.label_smoothing, anchor, job.settings.r_drop)


def is_plain(job: Job) -> bool:
    """Whether a step is the mean loss of its own rows and nothing else."""
    return is_likelihood(job) and not job.replay and not job.penalties


def is_likelihood(job: Job) -> bool:
    """Whether own rows have the mean loss of all their answers' tokens, as they stand."""
    settings = job.settings
    shaped = settings.neftune or settings.prompt_weight or job.balance or job.adapter.tasks
    return not shaped and shape_of(job) == Shape()


def add_gradients(
    job: Job,
    optimiser: torch.optim.Optimizer,
    step: int,
    packing: Packing,
    told: dict[str, Any] | None = None,
) -> float:
    """Put the step's gradient where the optimiser looks; the mean loss of its own rows."""
    told = {} if told is None else told
    general = general_rows(job, step)
    share = len(general) / (len(packing.rows) + len(general))
    optimiser.zero_grad(set_to_none=True)
    mixout = mixed(job.base, job.settings.mixout, job.seed, step)
    with torch.random.fork_rng(), job.adapter.learning(step, job.steps), mixout:
        torch.manual_seed(derive(job.seed, "step", step))
        if general and is_likelihood(job) and job.base.plain_head and not packing.labelled:
            loss, told["replay_loss"] = _both(job, packing, general, share)
        else:
            loss = _balanced(job, optimiser, packing, step, 1 - share, told)
            if general:
                told["replay_loss"] = _likelihood(job, Packing(job.base, general), share)
        for penalty in job.penalties:
            cost = 0.0
            for part in penalty.parts():
                if part.requires_grad:
                    part.backward()
                cost += float(part.detach())
            told.setdefault(penalty.name, cost)
    return loss


def _balanced(
    job: Job,
    optimiser: torch.optim.Optimizer,
    packing: Packing,
    step: int,
    share: float,
    told: dict[str, Any],
) -> float:
    """`_own`, task by task where the run balances several or the adapter reads them apart."""

    def read(task: str, part: Packing, weight: float) -> float:
        with job.adapter.reading(task):
            return _own(job, part, step, share * weight, told)

    if job.balance is not None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        return job.balance.add_gradients(packing, step, parameters, read, told)
    if job.adapter.tasks:
        shares = {k: part.targets / packing.targets for k, part in packing.by_task().items()}
        return sum(w * read(k, packing.by_task()[k], w) for k, w in shares.items())
    return _own(job, packing, step, share, told)


def _own(job: Job, packing: Packing, step: int, share: float, told: dict[str, Any]) -> float:
    """Add the gradient of the step's own rows; their mean loss."""
    settings, shape = job.settings, shape_of(job)
    with embedding_noise(job.base, settings.neftune, job.seed, step, shape.copies) as noise:
        if shape == Shape() and not settings.prompt_weight:
            return _likelihood(job, packing, share, noise)
        weight = packing.weight(settings.prompt_weight)
        parts = torch.zeros(3, device=job.base.device)
        passes = packing.shaped(
            job.micro_tokens, shape.copies, settings.prompt_weight, apart=noise is not None
        )
        for read in spared(passes, job.recompute):
            if noise is not None:
                noise.begin(read.batch.flat)
            loss, found = shaped_loss(job.base, read, shape)
            (loss / (weight / share)).backward()
            parts += found
    likelihood, apart, agreement = (parts / weight).tolist()
    if shape.anchor:
        told["kl"] = apart
    if shape.agreement:
        told["r_drop"] = agreement
    return float(likelihood) / shape.copies


def _likelihood(
    job: Job, packing: Packing, share: float = 1.0, noise: EmbeddingNoise | None = None
) -> float:
    """Add the gradient of share · mean loss; the mean loss."""
    total = 0.0
    passes = packing.passes(job.micro_tokens, apart=noise is not None)
    for batch in spared(passes, job.recompute):
        if noise is not None:
            noise.begin(batch.flat)
        loss = summed_loss(job.base, *batch)
        (loss / (packing.targets / share)).backward()
        total += float(loss.detach())
    return total / packing.targets


def _both(
    job: Job, packing: Packing, general: Sequence[TrainRow], share: float
) -> tuple[float, float]:
    """Add the gradient of both weighed means; (own mean, general mean).

    General rows are few: read beside own ones they cost their tokens, and alone half as much again.
    """
    more = Packing(job.base, general)
    factors = (1 - share) / packing.targets, share / more.targets
    sums = [0.0, 0.0]
    for parts in spared(packing.passes_with(more, job.micro_tokens), job.recompute):
        losses = summed_loss_of_each(job.base, [batch for _, batch in parts])
        weighed = [factors[n] * loss for (n, _), loss in zip(parts, losses, strict=True)]
        sum(weighed[1:], start=weighed[0]).backward()
        for (n, _), loss in zip(parts, losses, strict=True):
            sums[n] += float(loss.detach())
    return sums[0] / packing.targets, sums[1] / more.targets


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
        advice = "" if job.offload else "set `train: {offload: true}`, "
        raise CapabilityError(
            f"Memory ran out for the optimiser's state: {str(error).partition(chr(10))[0]}",
            f"{advice}lower the method's rank or targets, free memory, and add --resume.",
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


WATCHED = ("development", "general")


class Watched:
    """The rows whose losses decide which state is kept, packed once for the run."""

    def __init__(self, job: Job) -> None:
        self.rows = [*job.development, *job.general]
        self.packings = {
            "development": Packing(job.base, job.development),
            "general": Packing(job.base, job.general),
        }
        self.monitor = Monitor(self.packings["general"])

    def losses(self, job: Job, step: int, names: Collection[str] = WATCHED) -> dict[str, float]:
        """Losses of what hangs on the base now, and how far it is from the base on general text.

        Args:
            names: of the rows that are read.

        Raises:
            RunFailed: one of them is no number.
        """
        found: dict[str, float] = {}
        for name in names:
            packing = self.packings[name]
            if name == "general" and packing.rows:
                found |= self.monitor.read(job.micro_tokens)
            else:
                found[f"{name}_loss"] = mean_loss(job, packing)
            value = found[f"{name}_loss"]
            if packing.rows and not math.isfinite(value):
                raise RunFailed(
                    f"The loss on {name} rows is {value} at step {step}: the run diverged.",
                    "lower train.learning_rate by a factor of 3 to 10; at step 0, load the base "
                    "in float32.",
                )
        return found


def mean_loss(job: Job, rows: Sequence[TrainRow] | Packing) -> float:
    """Mean loss in nats per supervised token, weighed by rows, no gradient. NaN without rows."""
    packing = rows if isinstance(rows, Packing) else Packing(job.base, rows)
    if any(row.weight != 1 for row in packing.rows):
        return _weighed_loss(job, packing)
    total, count = 0.0, 0
    for task, part in (packing.by_task() if job.adapter.tasks else {"": packing}).items():
        with torch.no_grad(), job.adapter.reading(task):
            for batch in part.passes(job.micro_tokens):
                total, count = total + float(summed_loss(job.base, *batch)), count + len(batch[2])
    return total / count if count else math.nan


def _weighed_loss(job: Job, packing: Packing) -> float:
    total, count = 0.0, 0.0
    for task, part in (packing.by_task() if job.adapter.tasks else {"": packing}).items():
        with job.adapter.reading(task):
            losses = losses_of_rows(job.base, part.rows, job.micro_tokens)
        for row, loss in zip(part.rows, losses, strict=True):
            total, count = total + row.weight * loss, count + row.weight * row.targets
    return total / count
