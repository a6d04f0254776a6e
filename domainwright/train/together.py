"""Several candidates over one resident base: the same loop, with steps that share a batch.

    in turn   each candidate reads the packed batch with its own adapter alone on the base
    fused     one flat batch holds every candidate's copy; below the lowest adapter it is read
              once, and the head, the frozen products and the attention see one large batch

Rows, tokens and packing are shared either way. Which way is faster depends on the base, the
machine and on where the adapters sit, so a probe decides; it moves no weight and no random
stream. A candidate's own numbers are those of its run alone: bit for bit in turn, and to
rounding in the order of sums when fused.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from domainwright.core import machine
from domainwright.core.errors import CapabilityError, ConfigError, RunFailed
from domainwright.core.progress import Listener, quiet
from domainwright.core.seeds import derive
from domainwright.train.job import Job, Trained
from domainwright.train.loop import InTurn, Stage, Taken, train_runs
from domainwright.train.loss import summed_losses
from domainwright.train.memory import out_of_memory
from domainwright.train.order import micro_batches
from domainwright.train.passes import Packing
from domainwright.train.recompute import spared
from domainwright.train.run import Failure, Run
from domainwright.train.step import add_gradients, is_plain, update

Way = Literal["in turn", "fused"]
ROUNDS = 2
"""Timed steps of each way, after one that pays for everything once."""
APART = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Largest relative difference of a gradient between the two ways that is rounding."""


def train_together(
    jobs: Sequence[Job],
    *,
    way: Way | None = None,
    resume: bool = False,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> list[Trained | RunFailed]:
    """Train every job on the base they share; one that fails never touches another.

    Args:
        way: None lets a probe of a few discarded steps choose. Candidates that cannot share a
            batch, those that drop inputs among them, go in turn whatever is said.
        resume: each candidate goes on from its own newest checkpoint. Those behind catch up
            first, in turn.

    Returns:
        What each job measured, or why it failed, in the order of the jobs.

    Raises:
        ConfigError: the jobs differ in what they must share.
        RunFailed: the base's own losses are no numbers.
        Interrupted: `stop()` said so; every candidate's checkpoint is written.
    """
    if not jobs:
        return []
    check_alike(jobs)
    runs = train_runs(jobs, partial(Together, way=way), resume=resume, listen=listen, stop=stop)
    return [_result(run) for run in runs]


def _result(run: Run) -> Trained | RunFailed:
    if run.trained is not None:
        return run.trained
    if isinstance(run.failure, RunFailed):
        return run.failure
    error = run.failure or RunFailed("The run did not end.", "report this as a bug.")
    return RunFailed(error.cause, error.fix)


def check_alike(jobs: Sequence[Job]) -> None:
    """Whether the jobs share what a common batch needs.

    Raises:
        ConfigError: they do not, or two share what each needs for itself.
    """
    first = jobs[0]
    for number, job in enumerate(jobs[1:], start=2):
        for name in ("base", "rows", "development", "general", "micro_tokens", "seed", "recompute"):
            ours, theirs = getattr(first, name), getattr(job, name)
            same = ours is theirs if name == "base" else _equal(ours, theirs)
            if not same:
                what = f": {theirs} and {ours}" if isinstance(ours, int) else ""
                raise ConfigError(
                    f"Job {number} and job 1 differ in {name}{what}; candidates that train "
                    "together read the same documents in the same order and passes.",
                    f"give all of them the same {name}, or train them apart.",
                )
        if job.adapter.words != first.adapter.words:
            raise ConfigError(
                f"Job {number} and job 1 bring different new words, so the same text is other "
                "tokens for each.",
                "give all of them the same lora.new_tokens, or train them apart.",
            )
        if job.settings.batch != first.settings.batch:
            raise ConfigError(
                f"Job {number} has train.batch {job.settings.batch}, and job 1 has "
                f"{first.settings.batch}; candidates that train together share their batches.",
                "give all of them the same train.batch, or train them apart.",
            )
    own: dict[str, list[Any]] = {
        "adapter": [id(job.adapter) for job in jobs],
        "folder": [job.folder.resolve() for job in jobs],
    }
    for name, values in own.items():
        if len(set(values)) < len(values):
            raise ConfigError(f"Two jobs have the same {name}.", f"give every job its own {name}.")


def _equal(ours: Any, theirs: Any) -> bool:
    return ours is theirs or (
        list(ours) == list(theirs) if isinstance(ours, Sequence) else bool(ours == theirs)
    )


@dataclass(frozen=True, slots=True)
class Groups:
    """Candidates that move together, and the tokens of a pass before it is copied for each."""

    moves: list[list[Run]]
    limit: int


class Together(InTurn):
    """In turn or fused, as asked for or as the probe says."""

    def __init__(self, stage: Stage, way: Way | None) -> None:
        super().__init__(stage)
        self.way = way
        self.limit = 0
        """Tokens of a fused pass, one copy counted."""
        self._able: dict[Run, bool] = {}

    def moves(self, now: list[Run], packing: Packing, *, all_here: bool) -> list[list[Run]]:
        if not all_here or self.way == "in turn":
            return super().moves(now, packing, all_here=all_here)
        able = [run for run in now if self._can_share(run)]
        groups = fused_groups(able)
        self.limit = groups.limit
        shared = [move for move in groups.moves if len(move) > 1]
        if not shared:
            return super().moves(now, packing, all_here=all_here)
        if self.way is None:
            self.way = _way_so_far(now) or self._probe(groups, packing, now)
            return self.moves(now, packing, all_here=all_here)
        inside = {run for move in shared for run in move}
        return [*shared, *([run] for run in now if run not in inside)]

    def take(self, move: list[Run], packing: Packing) -> list[Taken | Failure]:
        if len(move) == 1:
            return super().take(move, packing)
        try:
            taken = self._fused(move, packing)
        except (MemoryError, RuntimeError) as error:
            cause = _no_sharing(error)
            if cause is None:
                raise
            taken, self.way = None, "in turn"
            for run in move:
                run.told["together"] = {"way": self.way, "cause": cause}
        if taken is not None:
            return taken
        # It does not fit, or a number is not finite: nobody has moved yet, so each steps alone,
        # and only whose own step fails has failed.
        machine.give_back()
        return super().take(move, packing)

    def _can_share(self, run: Run) -> bool:
        """Whether a candidate's copy can stand in a batch with others'."""
        base, adapter = self.stage.base, run.job.adapter
        if base.feeding == "single" and run.job.recompute:
            # Recomputed hooks are called in the backward pass, where rows have one meaning only.
            return False
        if not is_plain(run.job):
            return False
        if run not in self._able:
            self.stage.put(adapter)
            replaces = any(True for _ in adapter.replacements()) or adapter.learned_rows()
            alone = bool(replaces) or base.hooks.dropping or base.hooks.head is not None
            self._able[run] = base.plain_head and not alone
        return self._able[run]

    def _fused(self, move: list[Run], packing: Packing) -> list[Taken | Failure] | None:
        """A step of all of them in one batch; None, with nobody moved, if one is not finite."""
        losses = self.gradients(move, packing)
        norms = [
            float(torch.nn.utils.clip_grad_norm_(run.parameters, run.job.settings.clip))
            for run in move
        ]
        if not all(map(math.isfinite, [*losses, *norms])):
            return None
        taken: list[Taken | Failure] = []
        for run, loss, norm in zip(move, losses, norms, strict=True):
            try:
                update(run.job, run.optimiser, run.state.step)
                taken.append((loss, norm, packing.tokens))
            except CapabilityError as error:
                taken.append(error)
        return taken

    def gradients(self, move: list[Run], packing: Packing) -> list[float]:
        """Put everyone's gradient where its optimiser looks; everyone's mean loss."""
        base, first = self.stage.base, move[0]
        owners = [run.job.adapter for run in move]
        self.stage.put(*owners)
        totals = torch.zeros(len(move), device=base.device)
        for run in move:
            run.optimiser.zero_grad(set_to_none=True)
        with torch.random.fork_rng():
            torch.manual_seed(derive(first.job.seed, "step", first.state.step))
            for batch in spared(packing.passes(self.limit), first.job.recompute):
                tokens = batch.flat.tokens
                spans = {o: slice(i * tokens, (i + 1) * tokens) for i, o in enumerate(owners)}
                # Around the backward pass, too: recomputed blocks call their hooks there.
                with base.hooks.owning(spans):
                    losses = summed_losses(base, owners, *batch)
                    (losses.sum() / packing.targets).backward()
                totals += losses.detach()
        return [total / packing.targets for total in totals.tolist()]

    def _probe(self, groups: Groups, packing: Packing, now: list[Run]) -> Way:
        """Time both ways on this step's gradients, which are then thrown away."""
        runs = [run for move in groups.moves for run in move]
        # One pass of a candidate alone tells as much as the whole step.
        packing = Packing(packing.base, next(micro_batches(packing.rows, runs[0].job.micro_tokens)))
        seconds: dict[Way, list[float]] = {"in turn": [], "fused": []}
        apart, cause = math.inf, None
        try:
            for _ in range(1 + ROUNDS):
                apart, spent = self._both(runs, groups, packing)
                for each, taken in spent.items():
                    seconds[each].append(taken)
        except (MemoryError, RuntimeError) as error:
            cause = _no_sharing(error)
            if cause is None:
                raise
        for run in runs:
            run.optimiser.zero_grad(set_to_none=True)
        told: dict[str, Any] = {
            f"{each.replace(' ', '_')}_seconds": round(min(timed[1:]), 4)
            for each, timed in seconds.items()
            if len(timed) > 1
        }
        faster = len(told) == 2 and told["fused_seconds"] < told["in_turn_seconds"]
        same = apart <= APART.get(self.stage.base.dtype, 1e-3)
        way: Way = "fused" if faster and same else "in turn"
        told |= {"way": way, "candidates": len(runs)} | ({"cause": cause} if cause else {})
        if math.isfinite(apart):
            told["gradients_apart"] = float(f"{apart:.1e}")
        for run in now:
            run.told["together"] = told
        return way

    def _both(
        self, runs: list[Run], groups: Groups, packing: Packing
    ) -> tuple[float, dict[Way, float]]:
        """(largest relative difference of a candidate's gradient, seconds of each way)."""
        begun = self._now()
        for run in runs:
            self.stage.put(run.job.adapter)
            add_gradients(run.job, run.optimiser, run.state.step, packing)
        between = self._now()
        alone = [[p.grad for p in run.parameters] for run in runs]
        resumed = self._now()
        for move in groups.moves:
            self.gradients(move, packing)
        ended = self._now()
        apart = max(_apart(a, run) for a, run in zip(alone, runs, strict=True))
        return apart, {"in turn": between - begun, "fused": ended - resumed}

    def _now(self) -> float:
        if self.stage.base.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _no_sharing(error: MemoryError | RuntimeError) -> str | None:
    """Why a fused pass is not to be tried again; None for any other error."""
    if isinstance(error, CapabilityError):
        return error.cause
    return str(error).partition("\n")[0] or "out of memory" if out_of_memory(error) else None


def fused_groups(runs: list[Run]) -> Groups:
    """The candidates in batches that hold as many tokens as one candidate's passes alone.

    A document is read whole, so no more candidates share a batch than there is room for copies
    of the longest one.
    """
    if len(runs) < 2:
        return Groups([[run] for run in runs], 0)
    micro = min(run.job.micro_tokens for run in runs)
    longest = max(len(row.ids) for row in runs[0].job.rows)
    most = max(1, min(len(runs), micro // longest))
    # As even as can be: three and three share more than five and one.
    count = -(-len(runs) // most)
    return Groups([runs[i::count] for i in range(count)], micro // -(-len(runs) // count))


def _way_so_far(runs: list[Run]) -> Way | None:
    """What an interrupted run's probe had chosen: going on, every step is as it would have been."""
    found = {
        next((x["together"]["way"] for x in reversed(run.state.history) if "together" in x), None)
        for run in runs
    }
    return found.pop() if len(found) == 1 else None


def _apart(alone: list[torch.Tensor | None], run: Run) -> float:
    """Relative difference of two gradients, as whole vectors."""
    difference, size = 0.0, 0.0
    for ours, parameter in zip(alone, run.parameters, strict=True):
        theirs = parameter.grad
        if ours is None or theirs is None:
            if ours is not theirs:
                return math.inf
            continue
        difference += float((theirs - ours).square().sum())
        size += float(ours.square().sum())
    if not math.isfinite(difference):
        return math.inf
    return math.sqrt(difference / size) if size else math.sqrt(difference)
