"""Which method at which learning rate: a race in rungs, on development rows alone.

    27 candidates: all to R/36 steps, 9 go on to R/12, 4 to R/3, 2 to R/2, 1 to R
     9 candidates: all to R/12, 4 go on to R/6, 3 to R/3, 2 to R/2, 1 to R
     3 candidates: all to R/3, 2 go on to 2R/3, 1 to R

All candidates read the same rows in the same order on the schedule of the whole run, so at a
rung they stand at the same place of it, and their losses are paired row by row. Where the rows
cannot tell who should have a rung's last place, it goes to a method that would else be lost.
Two go on beyond R/3: what is ahead there by little is often behind at the end, however sure
the rows are of it by then. What goes on is taken up from its checkpoint, so the winner's run
is the one it would have had alone.

Sources: Jamieson and Talwalkar 2016, arXiv:1502.07943 (successive halving); Li et al. 2020,
arXiv:1810.05934 (a third goes on).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from domainwright.core.artifacts import sha256_json, write_json
from domainwright.core.errors import CapabilityError, RunFailed
from domainwright.core.progress import Listener, Step, quiet
from domainwright.maths.bootstrap import Interval, interval
from domainwright.methods import usual_rate
from domainwright.models.base import Base
from domainwright.studies._format import loss_change
from domainwright.studies.records import Candidate, Search

Losses = list[tuple[str, float, float]]
"""(row, summed loss in nats, supervised tokens) of every development row; see `loop.Paused`."""
RUNGS = {
    1: ((1, 1.0),),
    3: ((3, 1 / 3), (2, 2 / 3), (1, 1.0)),
    9: ((9, 1 / 12), (4, 1 / 6), (3, 1 / 3), (2, 1 / 2), (1, 1.0)),
    27: ((27, 1 / 36), (9, 1 / 12), (4, 1 / 3), (2, 1 / 2), (1, 1.0)),
}
"""Candidates -> how many of them are trained to which share of the whole run, and compared."""
COST = {
    count: sum(
        alive * (share - since)
        for (alive, share), (_, since) in zip(rungs, ((0, 0.0), *rungs[:-1]), strict=True)
    )
    for count, rungs in RUNGS.items()
}
"""Candidates -> training that their race takes, in whole runs."""
FEWEST_STEPS = {3: 24, 9: 96, 27: 288}
"""Steps of the whole run from which a race of that size says anything at its first rung."""
VISITS = {count: sum(alive for alive, _ in rungs) for count, rungs in RUNGS.items()}
"""Candidates -> how often one is taken up."""
FAMILIES = (
    "lora",
    "bottleneck",
    "prefix",
    "dora",
    "ia3",
    "full",
    "top_layers",
    "layernorm",
    "bitfit",
    "ptuning_v2",
)
"""Methods that `auto` tries, in this order: the first three differ the most in what they change.

One more than the largest race has places for: bitfit needs a base with biases."""
FACTORS = (1.0, 3.0, 1 / 3)
"""Learning rates of a method, in units of its usual one."""


def rungs_of(count: int, steps: int) -> list[int]:
    """Steps at which a race of that size compares; never beyond its cost.

    >>> rungs_of(9, 114)
    [9, 19, 38, 57, 114]
    """
    return [max(1, int(steps * share + 1e-6)) for _, share in RUNGS[count]]


def further_looks(count: int, checks: int) -> int:
    """Looks at candidates before the last rung that a run of the winner alone would not take.

    >>> [further_looks(count, 5) for count in (1, 3, 9, 27)]
    [0, 4, 3, 4]
    """
    looks = before = 0
    for alive, share in RUNGS[count][:-1]:
        now = int(share * checks + 1e-6)
        looks += (alive - 1) * (now - before)
        before = now
    return looks


def size_of_race(
    affordable: float,
    full: int,
    given: int | None,
    aside: Mapping[int, float] | None = None,
    most: int = 27,
) -> tuple[int, int]:
    """(candidates, steps of the whole run).

    Args:
        affordable: steps that the budget has time for, all candidates' together.
        aside: candidates -> what their race takes beside their steps, in steps.
        full: steps that the data are good for.
        given: steps that the study asks for.
        most: candidates there may be.
    """
    for count in (n for n in (27, 9, 3) if n <= most):
        left = affordable - (aside or {}).get(count, 0.0)
        steps = given or min(full, int(left / COST[count]))
        if steps >= FEWEST_STEPS[count] and steps * COST[count] <= left:
            return count, steps
    return 1, given or min(full, int(affordable))


def candidates(
    base: Base, methods: Sequence[str], count: int, steps: int, batch: int
) -> tuple[Candidate, ...]:
    """At most `count` of them: methods at their usual rate, each at three from nine on.

    Args:
        batch: documents a step.
    """
    factors = FACTORS if count >= 9 else FACTORS[:1]
    return tuple(
        Candidate(
            method=m, learning_rate=_round(f * usual_rate(m, base.parameters, batch)), of=steps
        )
        for m in methods[: count // len(factors)]
        for f in factors
    )


def _round(rate: float) -> float:
    """Two digits: what is printed can be typed."""
    return float(f"{rate:.2g}")


def race(
    field: Sequence[Candidate],
    steps: int,
    advance: Callable[[Candidate, int], Losses],
    folder: Path,
    groups: Mapping[str, str],
    *,
    ahead: Callable[[Sequence[Candidate], int], None] = lambda those, until: None,
    listen: Listener = quiet,
) -> Search:
    """Run the rungs before the last; the winner is still to be trained to its end.

    Args:
        advance: brings a candidate's run to a step and gives its losses there. A failure is the
            candidate's alone.
        folder: keeps the losses of every rung, so that an interrupted race is read back.
        groups: row -> group. Rows of one group are not independent.
        ahead: is told of the candidates that `advance` will be called for, and may do it at once.

    Raises:
        RunFailed: no candidate is left.
    """
    size = min((n for n in RUNGS if n >= len(field)), default=27)
    state = {c.name: c for c in field}
    alive = [c.name for c in field]
    rungs, taken = rungs_of(size, steps), 0
    for until, (places, _) in zip(rungs[:-1], RUNGS[size][1:], strict=True):
        losses: dict[str, Losses] = {}
        ahead([state[n] for n in alive if _read(state[n], until, folder) is None], until)
        for done, name in enumerate(alive):
            listen(Step("search", done, len(alive), {"rung": f"{until} of {steps} steps"}))
            found = _read_or_advance(state[name], until, advance, folder)
            taken += until - state[name].steps
            if isinstance(found, str):
                state[name] = replace(state[name], decision="failed", reason=found)
                continue
            state[name] = replace(state[name], steps=until, loss=_mean(found))
            losses[name] = found
        listen(Step("search", len(alive), len(alive), {"rung": f"{until} of {steps} steps"}))
        if not losses:
            raise RunFailed(
                "No candidate of the search is left: " + (state[alive[0]].reason or ""),
                "lower train.learning_rate, or name the strategies to measure.",
            )
        alive = _cut(state, losses, places, f"{until} of {steps}", groups)
    (winner,) = alive
    state[winner] = replace(state[winner], decision="chosen")
    return Search(
        steps=steps,
        rungs=rungs,
        runs=(taken + steps - state[winner].steps) / steps,
        candidates=[state[c.name] for c in field],
    )


def _cut(
    state: dict[str, Candidate],
    losses: dict[str, Losses],
    places: int,
    after: str,
    groups: Mapping[str, str],
) -> list[str]:
    """Names that go on; the others are stopped, with the reason."""
    order = sorted(losses, key=lambda name: _mean(losses[name]))
    on, out = order[:places], order[places:]
    if places > 1 and _twice(state, on):
        here = {state[n].method for n in on}
        tied = (n for n in out if not _behind(losses[n], losses[on[-1]], groups).decided)
        on = [*on[:-1], next((n for n in tied if state[n].method not in here), on[-1])]
    best = order[0]
    state[best] = replace(state[best], behind=None)
    for name in order[1:]:
        behind = _behind(losses[name], losses[best], groups)
        state[name] = replace(state[name], behind=behind)
        if name not in on:
            state[name] = replace(
                state[name],
                decision="stopped",
                reason=(
                    f"After {after} steps its development loss is "
                    f"{loss_change(behind)} above that of {best}."
                ),
            )
    return on


def _twice(state: Mapping[str, Candidate], on: Sequence[str]) -> bool:
    """Whether the last of them is of a method that one before it has, too."""
    *before, last = (state[name].method for name in on)
    return last in before


def _behind(losses: Losses, best: Losses, groups: Mapping[str, str]) -> Interval:
    """Mean paired difference per token, every row weighed by its tokens."""
    tokens = np.array([n for _, _, n in losses], dtype=float)
    gap = np.array([a - b for (_, a, _), (_, b, _) in zip(losses, best, strict=True)])
    drawn = [groups.get(row, row) for row, _, _ in losses]
    return interval(gap * len(tokens) / tokens.sum(), drawn)


def _mean(losses: Losses) -> float:
    """Nats per token."""
    return sum(a for _, a, _ in losses) / max(1, sum(n for _, _, n in losses))


def _rung(candidate: Candidate, until: int, folder: Path) -> tuple[Path, str]:
    """(file of what the candidate was at the rung, hash of what it was asked)."""
    asked = sha256_json(asdict(replace(candidate, steps=0, loss=None, behind=None)))
    return folder / candidate.name / f"rung-{until}.json", asked


def _read(candidate: Candidate, until: int, folder: Path) -> Losses | str | None:
    """What was kept of the rung: losses, or why the candidate is out; None: nothing yet."""
    file, asked = _rung(candidate, until, folder)
    if file.is_file():
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if known.get("asked") == asked:
            return known["failed"] or [(row, a, n) for row, a, n in known["losses"]]
    return None


def _read_or_advance(
    candidate: Candidate, until: int, advance: Callable[[Candidate, int], Losses], folder: Path
) -> Losses | str:
    """The losses at the rung, or why the candidate is out."""
    if (known := _read(candidate, until, folder)) is not None:
        return known
    file, asked = _rung(candidate, until, folder)
    failed, losses = "", Losses()
    try:
        losses = advance(candidate, until)
        if not math.isfinite(_mean(losses)):
            failed = f"Its development loss is {_mean(losses)} after {until} steps: it diverged."
    except (RunFailed, CapabilityError) as error:
        failed = error.cause
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"asked": asked, "failed": failed, "losses": losses})
    return failed or losses


def without_winner(search: Search, reason: str) -> Search | None:
    """The search with the next best candidate in the place of a winner that failed at the end.

    The next best has come as far as any, and its loss is the lowest of those; None: no one is
    left.
    """
    left = [c for c in search.candidates if c.decision == "stopped" and c.loss is not None]
    if not left:
        return None
    next_best = min(left, key=lambda c: (-c.steps, c.loss))
    decided = {
        search.winner.name: replace(search.winner, decision="failed", reason=reason),
        next_best.name: replace(next_best, decision="chosen", reason=None),
    }
    return replace(
        search,
        runs=search.runs + 1 - next_best.steps / search.steps,
        candidates=[decided.get(c.name, c) for c in search.candidates],
    )
