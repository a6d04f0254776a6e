"""One candidate on its way: where it is, what it keeps, whether it is well."""

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from domainwright.core.artifacts import write_atomic
from domainwright.core.errors import CapabilityError, RunFailed
from domainwright.core.progress import Step
from domainwright.methods._adapter import Adapter
from domainwright.models.flat import flatten
from domainwright.train import checkpoint
from domainwright.train.checkpoint import State, Stored
from domainwright.train.draw_back import MARGIN, draw_back, start_of
from domainwright.train.job import Job, Trained
from domainwright.train.objective import check_fit
from domainwright.train.settings import TrainSettings
from domainwright.train.shelf import Shelf, ShelvedAdamW
from domainwright.train.step import WATCHED, Watched, optimiser_of, within_memory

Failure = RunFailed | CapabilityError
"""What ends one candidate and leaves the others alone."""


@dataclass(eq=False)
class Run:
    """A job with its optimiser and its state. Nothing here is another candidate's."""

    job: Job
    optimiser: torch.optim.Optimizer = field(init=False)
    parameters: list[torch.nn.Parameter] = field(init=False)
    state: State = field(default_factory=State)
    best: dict[str, Tensor] = field(default_factory=dict)
    """The adapter's best state so far."""
    beyond: dict[str, Tensor] = field(default_factory=dict)
    """A state of lower loss than the best one that forgets too much."""
    mean: dict[str, Tensor] = field(default_factory=dict)
    """The mean of the adapter's states so far, where they are averaged."""
    begun: dict[str, Tensor] = field(init=False)
    """The adapter before its first step."""
    failure: Failure | None = None
    trained: Trained | None = None
    unpaid: float = 0.0
    """Seconds spent since `state.seconds` was last told."""
    saved: int | None = None
    """Step of the newest checkpoint."""
    told: dict[str, Any] = field(default_factory=dict)
    """For the next line of metrics.jsonl."""

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.job.adapter.parameters() if p.requires_grad]
        self.optimiser = optimiser_of(self.job)
        check_fit(self.job.adapter, self.job.settings)
        self.begun = start_of(self.job.adapter)
        steps = self.job.steps
        checks = self.job.settings.checks_in(steps)
        self.checks = {round(steps * (i + 1) / checks) for i in range(checks)} | {steps}

    @property
    def going(self) -> bool:
        return self.failure is None and self.trained is None

    @property
    def over(self) -> bool:
        """Whether no step is left to take."""
        patience = self.job.settings.patience
        tired = patience is not None and self.state.since_best >= patience
        return self.state.step >= self.job.steps or tired

    def resume(self) -> bool:
        """Go on from the newest checkpoint; False where there is none."""
        job = self.job
        found = checkpoint.newest(job.folder / "checkpoints", job.run_hash)
        if not found:
            return False
        self.state, tensors = found
        self.saved = self.state.step
        _restore(job.adapter, self.optimiser, tensors)
        self.best, self.beyond, self.mean = (
            self.job.kept(tensors.part(kind)) for kind in ("best", "beyond", "mean")
        )
        if job.balance is not None:
            job.balance.load_state_dict(tensors.part("balance"))
        if self.state.halved_to:
            self.job = replace(job, micro_tokens=min(job.micro_tokens, self.state.halved_to))
        return True

    def start(self, losses: dict[str, float], micro_tokens: int) -> None:
        """Begin at step 0, where the adapter is the base.

        Args:
            losses: of the untouched base.
            micro_tokens: tokens a pass with which they could be read.
        """
        near = {"general_kl": 0.0, "general_agreement": 1.0} if self.job.general else {}
        self.state = State(history=[{"step": 0, **near, **losses}])
        if micro_tokens < self.job.micro_tokens:
            self.job = replace(self.job, micro_tokens=micro_tokens)
            self.state.halved_to = micro_tokens

    def record(
        self,
        taken: tuple[float, float, int],
        watched: Watched,
        prepare: Callable[[], None],
        *,
        before: int,
        peak_mib: float,
    ) -> Step:
        """Book a step: judge it, look at the watched losses where that is due, keep the best.

        Args:
            taken: what `take_step` gave.
            prepare: leaves this candidate's adapter alone on the base.
            before: tokens a pass before the step.

        Raises:
            RunFailed: the run diverged, or nothing is trained.
        """
        loss, norm, tokens = taken
        state = self.state
        state.step += 1
        state.tokens += tokens
        state.seconds, self.unpaid = state.seconds + self.unpaid, 0.0
        state.peak_rss_mib = max(state.peak_rss_mib, round(peak_mib))
        state.first_loss = state.first_loss if state.first_loss is not None else loss
        check_health(state, loss, norm)
        line = {
            "step": state.step,
            "loss": loss,
            "gradient_norm": norm,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 3),
            **self.told,
        }
        self.told = {}
        share = self.job.settings.average
        if share is not None and state.step > share * self.job.steps:
            state.averaged += 1
            now = self.job.adapter.state_dict()
            self.mean = self.mean or self.job.kept(now)
            add_to_mean(self.mean, now, state.averaged)
        if state.step in self.checks:
            prepare()
            line |= self._losses(watched)
            self._keep(line)
        facts = {"loss": f"{loss:.3f}", "tokens/s": f"{state.tokens / state.seconds:.0f}"}
        if self.job.micro_tokens < before:
            state.halved_to = line["micro_tokens"] = self.job.micro_tokens
            facts["out of memory"] = f"passes of {self.job.micro_tokens} tokens from here"
        state.history.append(line)
        return Step(f"train {self.job.adapter.method}", state.step, self.job.steps, facts)

    def _keep(self, line: dict[str, Any]) -> bool:
        """The state as the best one, if it is."""
        state = self.state
        if is_best(state, line, state.history[0], self.job.settings):
            state.best_step, state.best_loss = state.step, line["development_loss"]
            state.since_best = 0
            self.best = self.job.kept(self.job.adapter.state_dict())
            return True
        state.since_best += 1
        least = min(x for x in (state.best_loss, state.over_loss, math.inf) if x is not None)
        if self.begun and line["development_loss"] < least:
            state.over_step, state.over_loss = state.step, line["development_loss"]
            state.over_general = line["general_loss"]
            self.beyond = self.job.kept(self.job.adapter.state_dict())
        return False

    @property
    def due(self) -> bool:
        """Whether a checkpoint is to be written after this step."""
        every = self.job.settings.checkpoint_every
        return self.state.step % every == 0 or self.state.step == self.job.steps

    def save(self) -> None:
        kept = {"best": self.best, "beyond": self.beyond, "mean": self.mean}
        if self.job.balance is not None:
            kept["balance"] = self.job.balance.state_dict()
        write_checkpoint(self.job, self.optimiser, self.state, kept)
        self.saved = self.state.step
        self.write_metrics()

    def write_metrics(self) -> None:
        self.job.folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in self.state.history)
        write_atomic(self.job.folder / "metrics.jsonl", text)

    def _losses(self, watched: Watched, names: Collection[str] = WATCHED) -> dict[str, float]:
        """Watched losses of the adapter as it is."""
        self.job, losses = within_memory(
            self.job, watched.rows, lambda job: watched.losses(job, self.state.step, names)
        )
        return losses

    def _judge_mean(self, watched: Watched) -> None:
        """The mean of the last states, as one more state."""
        if not self.mean:
            return
        self.job.adapter.load_state_dict(self.mean)
        line: dict[str, Any] = {"step": self.state.step, "averaged": self.state.averaged}
        losses = self._losses(watched)
        # Where it is not kept, the losses of this step are those of the state that is.
        line |= losses if self._keep(line | losses) else {"rejected": losses}
        self.state.history.append(line)

    def _draw_back(self, watched: Watched) -> None:
        """Keep a share of what forgets too much, where that is better than the best state."""
        state, at_start = self.state, self.state.history[0]
        if not self.beyond or state.over_loss is None or state.over_general is None:
            return
        if state.best_loss is not None and state.best_loss <= state.over_loss:
            return
        unchanged = at_start["general_loss"]
        found = draw_back(
            self.job.adapter,
            self.begun,
            self.beyond,
            MARGIN * self.job.settings.max_forgetting,
            state.over_general - unchanged,
            lambda: self._losses(watched, ["general"])["general_loss"] - unchanged,
        )
        if found is None:
            return
        self.job.adapter.load_state_dict(found.tensors)
        losses = self._losses(watched)
        least = at_start["development_loss"] if state.best_loss is None else state.best_loss
        if losses["development_loss"] >= least:
            return
        self.best = found.tensors
        state.best_step, state.best_loss = state.over_step, losses["development_loss"]
        state.history.append({"step": state.over_step, "kept_share": found.share, **losses})

    def finish(self, watched: Watched) -> Trained:
        """The adapter's best state, judged. Its adapter hangs alone on the base.

        Raises:
            RunFailed: nothing learned, nothing changed, or too much forgotten.
        """
        state, at_start = self.state, self.state.history[0]
        # No step follows, and a kept state is read in their place.
        self.optimiser.zero_grad()
        if self.mean or self.beyond:
            self._judge_mean(watched)
            self._draw_back(watched)
            # Judged for good: a run that is read back, as every fold's is, takes no further look.
            self.mean, self.beyond = {}, {}
            self.save()
        else:
            self.write_metrics()
        if state.best_step is None or state.best_loss is None:
            risen = min(x["general_loss"] for x in state.history[1:] if "general_loss" in x)
            raise RunFailed(
                f"Every state of the run forgets more than the limit: the loss on general text "
                f"rose by at least {risen - at_start['general_loss']:.3f} nats per token, and the "
                f"limit is {self.job.settings.max_forgetting}.",
                "lower train.learning_rate or train.steps, or raise train.max_forgetting.",
            )
        self.job.adapter.load_state_dict(self.best)
        if state.best_loss >= at_start["development_loss"]:
            raise RunFailed(
                f"The run learned nothing: the best development loss is {state.best_loss:.4f}, and "
                f"the untouched base has {at_start['development_loss']:.4f}.",
                "give more rows or steps, or lower train.learning_rate.",
            )
        if not changes_anything(self.job):
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


def check_health(state: State, loss: float, norm: float) -> None:
    """Judge a step.

    Raises:
        RunFailed: the run diverged, or nothing is trained.
    """
    recent = [line["loss"] for line in state.history[-4:] if "loss" in line] + [loss]
    first, at = state.first_loss or 0, f"step {state.step}"
    if not (math.isfinite(loss) and math.isfinite(norm)):
        cause = f"The loss is {loss} and the gradient norm {norm} at {at}"
    # Below the first loss nothing is wrong: rows learned by heart have no gradient in float32.
    elif norm == 0 and loss >= first:
        cause = f"The gradient is exactly zero at {at}"
        if state.step == 1:
            raise RunFailed(
                f"{cause}: nothing is trained.",
                "check that the chosen targets are part of the base.",
            )
    elif len(recent) == 5 and min(recent) > 2 * first + 1:
        cause = f"The loss rose from {first:.2f} to {loss:.2f} by {at}"
    else:
        return
    raise RunFailed(
        f"{cause}: the run diverged.", "lower train.learning_rate by a factor of 3 to 10."
    )


def is_best(
    state: State, line: dict[str, Any], at_start: dict[str, Any], settings: TrainSettings
) -> bool:
    if math.isnan(line["development_loss"]):
        return True
    if line["general_loss"] - at_start["general_loss"] > settings.max_forgetting:
        return False
    return state.best_loss is None or line["development_loss"] < state.best_loss


@torch.no_grad()
def changes_anything(job: Job) -> bool:
    flat = flatten([job.rows[0].ids], job.base.device)
    adapted = job.base.hidden(flat)
    with job.base.hooks.disabled():
        return not torch.equal(adapted, job.base.hidden(flat))


def add_to_mean(mean: dict[str, Tensor], now: Mapping[str, Tensor], count: int) -> None:
    """The mean of `count` states from that of one less, in place.

        mean + (now - mean) / count         what is no number of its own stays as it is now

    Of LoRA's kin the factors are averaged, for the mean of the products has no such rank. That is
    another thing where factors come from several runs; along the tail of one they hardly turn.

    Args:
        mean: the state to be changed; of one state alone it may be any of the same shapes.

    Source: Izmailov et al. 2018, arXiv:1803.05407, algorithm 1.
    """
    for name, value in now.items():
        if value.is_floating_point():
            mean[name].lerp_(value.detach().to(mean[name].device), 1 / count)
        else:
            mean[name].copy_(value.detach())
        if isinstance(mean, Shelf):
            mean.touched(value.nbytes)


def write_checkpoint(
    job: Job,
    optimiser: torch.optim.Optimizer,
    state: State,
    kept: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Write the run's newest checkpoint.

    Args:
        kept: kind -> a state of the adapter beside the one it is in, such as the best.
    """
    tensors = {f"adapter.{k}": v for k, v in job.adapter.state_dict().items()}
    for kind, states in kept.items():
        tensors |= {f"{kind}.{k}": v for k, v in states.items()}
    own = checkpoint.optimiser_tensors(optimiser)
    tensors |= {f"optimiser.{k}": v for k, v in own.items()}
    shelves = [states for states in kept.values() if isinstance(states, Shelf)]
    if isinstance(optimiser, ShelvedAdamW):
        shelves.append(optimiser.shelf)
    checkpoint.save(job.folder / "checkpoints", state, tensors, job.run_hash, shelves)


def _restore(adapter: Adapter, optimiser: torch.optim.Optimizer, tensors: Stored) -> None:
    adapter.load_state_dict(dict(tensors.part("adapter")))
    checkpoint.restore_optimiser(optimiser, tensors.part("optimiser"))
    if isinstance(optimiser, ShelvedAdamW):
        optimiser.shelf.leave()
