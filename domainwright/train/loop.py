"""The one training loop, for every method.

    gradient = ∇ Σ loss over the supervised tokens of the step / number of those tokens

The sum is divided once per optimiser step by all its supervised tokens: a mean of means
over micro-batches of unequal length would weigh short answers more (transformers #34191).
Order and dropout follow from (seed, step) alone, so a resumed run is bit-identical.

Where memory runs out, the step is begun again with half the tokens a pass, from the same
seed: without dropout it is the step of a run that began with that size. Dropout's noise is
drawn pass by pass, so there the redone step is another draw of the same distribution.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from domainwright.core import machine
from domainwright.core.artifacts import write_atomic
from domainwright.core.errors import CapabilityError, RunFailed
from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.seeds import derive
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.flat import flatten
from domainwright.models.forms import TrainRow
from domainwright.train import checkpoint, schedule
from domainwright.train.checkpoint import State
from domainwright.train.loss import loss_of_rows
from domainwright.train.memory import Meter, halved, out_of_memory
from domainwright.train.order import micro_batches, rows_of_step
from domainwright.train.recompute import recomputed
from domainwright.train.settings import TrainSettings

T = TypeVar("T")


class Interrupted(KeyboardInterrupt):
    """The run stopped on request after writing a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything a run is made of."""

    base: Base
    adapter: Adapter
    rows: Sequence[TrainRow]
    development: Sequence[TrainRow]
    general: Sequence[TrainRow]
    """General text on which forgetting is watched."""
    settings: TrainSettings
    steps: int
    learning_rate: float
    micro_tokens: int
    seed: int
    folder: Path
    """Checkpoints and metrics.jsonl go here."""
    run_hash: str
    """Of data, settings and base: a checkpoint of another run is refused."""
    recompute: bool = False
    """Gradient checkpointing: less memory, more time, the same gradients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a run measured about itself."""

    steps: int
    best_step: int
    seconds: float
    tokens: int
    tokens_per_s: float
    peak_rss_mib: int
    base_loss: float
    """Development loss of the untouched base, nats per token."""
    best_loss: float
    history: tuple[dict[str, Any], ...]


def train(
    job: Job,
    *,
    resume: bool = False,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Run the loop; afterwards the adapter holds the best state, and the base is bare again.

    Raises:
        RunFailed: diverged, a zero gradient, nothing changed, nothing learned, or every state
            forgets more than the limit.
        Interrupted: `stop()` said so; the checkpoint is written.
    """
    # However the run ends: what is measured next must not have a failed adapter on it.
    with job.adapter.attached(), recomputed(job.base, job.recompute):
        return _train(job, resume, listen, stop)


def _train(job: Job, resume: bool, listen: Listener, stop: Callable[[], bool]) -> Trained:
    adapter, settings, base = job.adapter, job.settings, job.base
    parameters = [p for p in adapter.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters,
        lr=job.learning_rate,
        betas=(0.9, 0.999),
        weight_decay=settings.weight_decay,
        fused=fused(base),
    )
    meter = Meter(base.device)
    meter.reset()
    job, state, best = _begin(job, optimiser, resume)
    at_start = state.history[0]
    watched = [*job.development, *job.general]
    checks = {round(job.steps * (i + 1) / settings.checks) for i in range(settings.checks)}
    start_seconds, begun = state.seconds, time.perf_counter()
    _write_metrics(job.folder, state)

    while state.step < job.steps and not _out_of_patience(state, settings):
        rows = rows_of_step(job.rows, settings.batch, job.seed, state.step)
        before = job.micro_tokens
        step = partial(
            take_step, optimiser=optimiser, parameters=parameters, step=state.step, rows=rows
        )
        job, (loss, norm, tokens) = _within_memory(job, rows, step)
        state.step += 1
        state.tokens += tokens
        state.seconds = start_seconds + time.perf_counter() - begun
        state.peak_rss_mib = max(state.peak_rss_mib, round(meter.peak_mib()))
        state.first_loss = state.first_loss if state.first_loss is not None else loss
        _check_health(state, loss, norm)
        line = {
            "step": state.step,
            "loss": loss,
            "gradient_norm": norm,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 3),
        }
        if state.step in checks or state.step == job.steps:
            job, losses = _within_memory(job, watched, partial(_watched, step=state.step))
            line |= losses
            if _is_best(state, line, at_start, settings):
                state.best_step, state.best_loss = state.step, line["development_loss"]
                state.since_best = 0
                best = {k: v.detach().clone() for k, v in adapter.state_dict().items()}
            else:
                state.since_best += 1
        facts = {"loss": f"{loss:.3f}", "tokens/s": f"{state.tokens / state.seconds:.0f}"}
        if job.micro_tokens < before:
            state.halved_to = line["micro_tokens"] = job.micro_tokens
            facts["out of memory"] = f"passes of {job.micro_tokens} tokens from here"
        state.history.append(line)
        listen(Step(f"train {adapter.method}", state.step, job.steps, facts))
        stopping = stop()
        if state.step % settings.checkpoint_every == 0 or stopping or state.step == job.steps:
            write_checkpoint(job, optimiser, state, best)
            _write_metrics(job.folder, state)
        if stopping:
            raise Interrupted
    _write_metrics(job.folder, state)
    return _finish(job, state, best, at_start)


def _begin(
    job: Job, optimiser: torch.optim.Optimizer, resume: bool
) -> tuple[Job, State, dict[str, Tensor]]:
    """(job, state, best tensors so far): of the newest checkpoint, or of a run that starts."""
    found = checkpoint.newest(job.folder / "checkpoints", job.run_hash) if resume else None
    if found:
        state, tensors = found
        _restore(job.adapter, optimiser, tensors)
        best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        if state.halved_to:
            job = replace(job, micro_tokens=min(job.micro_tokens, state.halved_to))
        return job, state, best
    with job.base.hooks.disabled():
        watched = [*job.development, *job.general]
        smaller, losses = _within_memory(job, watched, partial(_watched, step=0))
    state = State(history=[{"step": 0, **losses}])
    if smaller.micro_tokens < job.micro_tokens:
        state.halved_to = smaller.micro_tokens
    return smaller, state, {}


def _within_memory(job: Job, rows: Sequence[TrainRow], work: Callable[[Job], T]) -> tuple[Job, T]:
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


def _watched(job: Job, step: int) -> dict[str, float]:
    """The losses that decide which state is kept."""
    found = {}
    for name, rows in (("development", job.development), ("general", job.general)):
        found[f"{name}_loss"] = value = mean_loss(job, rows)
        if rows and not math.isfinite(value):
            raise RunFailed(
                f"The loss on {name} rows is {value} at step {step}: the run diverged.",
                "lower train.learning_rate by a factor of 3 to 10; at step 0, load the base in "
                "float32.",
            )
    return found


def mean_loss(job: Job, rows: Sequence[TrainRow]) -> float:
    """Mean loss in nats per supervised token, no gradient. NaN without rows."""
    total, count = 0.0, 0
    with torch.no_grad():
        for group in micro_batches(rows, job.micro_tokens):
            loss, targets = loss_of_rows(job.base, group)
            total, count = total + float(loss), count + targets
    return total / count if count else math.nan


def take_step(
    job: Job,
    optimiser: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    step: int,
    rows: Sequence[TrainRow],
) -> tuple[float, float, int]:
    """One optimiser step: (mean loss, gradient norm before clipping, tokens read)."""
    targets = sum(row.targets for row in rows)
    total = 0.0
    optimiser.zero_grad(set_to_none=True)
    with torch.random.fork_rng():
        torch.manual_seed(derive(job.seed, "step", step))
        for group in micro_batches(rows, job.micro_tokens):
            loss, _ = loss_of_rows(job.base, group)
            (loss / targets).backward()
            total += float(loss.detach())
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, job.settings.clip))
    rate = job.learning_rate * schedule.factor(
        job.settings.schedule, step, job.steps, job.settings.warmup_share, job.settings.decay_share
    )
    for parameter_group in optimiser.param_groups:
        parameter_group["lr"] = rate
    if math.isfinite(norm):
        _update(optimiser)
    return total / targets, norm, sum(len(row.ids) for row in rows)


def _update(optimiser: torch.optim.Optimizer) -> None:
    """One update. It must not be redone: out of memory, a part of its state may be there."""
    try:
        optimiser.step()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise CapabilityError(
            f"Memory ran out for the optimiser's state: {str(error).partition(chr(10))[0]}",
            "lower the method's rank or targets, free memory, and add --resume.",
        ) from error


def _check_health(state: State, loss: float, norm: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise RunFailed(
            f"The loss is {loss} and the gradient norm {norm} at step {state.step}: "
            "the run diverged.",
            "lower train.learning_rate by a factor of 3 to 10.",
        )
    if norm == 0:
        raise RunFailed(
            f"The gradient is exactly zero at step {state.step}: nothing is trained.",
            "check that the chosen targets are part of the base.",
        )
    recent = [line["loss"] for line in state.history[-4:] if "loss" in line] + [loss]
    if len(recent) == 5 and min(recent) > 2 * (state.first_loss or 0) + 1:
        raise RunFailed(
            f"The loss rose from {state.first_loss:.2f} to {loss:.2f} by step "
            f"{state.step}: the run diverged.",
            "lower train.learning_rate by a factor of 3 to 10.",
        )


def _is_best(
    state: State, line: dict[str, Any], at_start: dict[str, Any], settings: TrainSettings
) -> bool:
    if math.isnan(line["development_loss"]):
        return True
    if line["general_loss"] - at_start["general_loss"] > settings.max_forgetting:
        return False
    return state.best_loss is None or line["development_loss"] < state.best_loss


def _out_of_patience(state: State, settings: TrainSettings) -> bool:
    return settings.patience is not None and state.since_best >= settings.patience


def _finish(job: Job, state: State, best: dict[str, Tensor], at_start: dict[str, Any]) -> Trained:
    if state.best_step is None or state.best_loss is None:
        risen = min(x["general_loss"] for x in state.history[1:] if "general_loss" in x)
        raise RunFailed(
            f"Every state of the run forgets more than the limit: the loss on general text rose by "
            f"at least {risen - at_start['general_loss']:.3f} nats per token, and the limit is "
            f"{job.settings.max_forgetting}.",
            "lower train.learning_rate or train.steps, or raise train.max_forgetting.",
        )
    job.adapter.load_state_dict(best)
    if state.best_loss >= at_start["development_loss"]:
        raise RunFailed(
            f"The run learned nothing: the best development loss is {state.best_loss:.4f}, and the "
            f"untouched base has {at_start['development_loss']:.4f}.",
            "give more rows or steps, or lower train.learning_rate.",
        )
    if not _changes_anything(job):
        raise RunFailed(
            "The trained adapter changes no logit of the base.",
            "train longer or with a higher train.learning_rate.",
        )
    return Trained(
        steps=state.step,
        best_step=state.best_step,
        seconds=state.seconds,
        tokens=state.tokens,
        tokens_per_s=state.tokens / state.seconds,
        peak_rss_mib=state.peak_rss_mib,
        base_loss=at_start["development_loss"],
        best_loss=state.best_loss,
        history=tuple(state.history),
    )


@torch.no_grad()
def _changes_anything(job: Job) -> bool:
    flat = flatten([job.rows[0].ids], job.base.device)
    adapted = job.base.hidden(flat)
    with job.base.hooks.disabled():
        return not torch.equal(adapted, job.base.hidden(flat))


def fused(base: Base) -> bool:
    return base.device.type in ("cpu", "cuda")


def write_checkpoint(
    job: Job, optimiser: torch.optim.Optimizer, state: State, best: dict[str, Tensor]
) -> None:
    tensors = {f"adapter.{k}": v for k, v in job.adapter.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    tensors |= checkpoint.optimiser_tensors(optimiser)
    checkpoint.save(job.folder / "checkpoints", state, tensors, job.run_hash)


def _restore(
    adapter: Adapter, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    adapter.load_state_dict(
        {k.removeprefix("adapter."): v for k, v in tensors.items() if k.startswith("adapter.")}
    )
    checkpoint.restore_optimiser(optimiser, tensors)


def _write_metrics(folder: Path, state: State) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(
        folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in state.history)
    )
