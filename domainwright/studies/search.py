"""Which method at which learning rate: a race in rungs, on development rows alone.

    27 candidates: all to R/36 steps, 9 go on to R/12, 3 to R/3, 1 to R
     9 candidates: all to R/12, 3 go on to R/3, 1 to R
     3 candidates: all to R/3, 1 goes on to R

All candidates read the same rows in the same order on the schedule of the whole run, so at a
rung they stand at the same place of it, and their losses are paired row by row. One more than
a rung's places goes on where the rows cannot tell it from the last that does and the race's
allowance has room for it: first of a method that would else be lost, then by its loss. What
goes on is taken up from its checkpoint, so the winner's run is the one it would have had alone.

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

Losses = list[tuple[str, float, int]]
"""(row, summed loss in nats, supervised tokens) of every development row."""
RUNGS = {1: (1.0,), 3: (1 / 3, 1.0), 9: (1 / 12, 1 / 3, 1.0), 27: (1 / 36, 1 / 12, 1 / 3, 1.0)}
"""Candidates -> shares of the whole run at which they are compared."""
ALLOWANCE = {1: 1.0, 3: 1.75, 9: 2.5, 27: 3.2}
"""Candidates -> most training that the race may take, in whole runs."""
FEWEST_STEPS = {3: 24, 9: 96, 27: 288}
"""Steps of the whole run from which a race of that size says anything at its first rung."""
VISITS = {1: 1, 3: 4, 9: 14, 27: 42}
"""Candidates -> how often one is taken up: at every rung, by all that go on."""
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
)
"""Methods that `auto` tries, in this order: the first three differ the most in what they change."""
FACTORS = (1.0, 3.0, 1 / 3)
"""Learning rates of a method, in units of its usual one."""


def further_looks(count: int, checks: int) -> int:
    """Looks at candidates before the last rung that a run of the winner alone would not take.

    >>> [further_looks(count, 5) for count in (1, 3, 9, 27)]
    [0, 2, 2, 2]
    """
    looks = before = 0
    for place, share in enumerate(RUNGS[count][:-1]):
        now = int(share * checks)
        looks += (count // 3**place) * (now - before)
        before = now
    return looks - before


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
        steps = given or min(full, int(left / ALLOWANCE[count]))
        if steps >= FEWEST_STEPS[count] and steps * ALLOWANCE[count] <= left:
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
    ledger = _Ledger(size, steps)
    for number, share in enumerate(RUNGS[size][:-1]):
        until = max(1, round(steps * share))
        losses: dict[str, Losses] = {}
        ahead([state[n] for n in alive if _read(state[n], until, folder) is None], until)
        for done, name in enumerate(alive):
            listen(Step("search", done, len(alive), {"rung": f"{until} of {steps} steps"}))
            found = _read_or_advance(state[name], until, advance, folder)
            ledger.pay(until - state[name].steps)
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
        places = max(1, size // 3 ** (number + 1))
        alive = _cut(state, losses, places, until, ledger, RUNGS[size][number + 1 :], groups)
    (winner,) = alive
    state[winner] = replace(state[winner], decision="chosen")
    ledger.pay(steps - state[winner].steps)
    return Search(
        steps=steps,
        rungs=[max(1, round(steps * share)) for share in RUNGS[size]],
        runs=ledger.paid / steps,
        candidates=[state[c.name] for c in field],
    )


class _Ledger:
    """Steps taken, and steps that the places of the rungs to come will need."""

    def __init__(self, size: int, steps: int) -> None:
        self.size, self.steps, self.paid = size, steps, 0

    def pay(self, steps: int) -> None:
        self.paid += max(0, steps)

    def room(self, until: int, rungs: Sequence[float], going: int) -> bool:
        """Whether `going` candidates may take the next rung, and its places those after it."""
        ahead, before = self.paid, until
        for share in rungs:
            ahead += going * round(self.steps * share - before)
            before = round(self.steps * share)
            # A third of the places go on; four of them are three and the one that was let in.
            going = math.ceil(going / 4)
        return ahead <= ALLOWANCE[self.size] * self.steps


def _cut(
    state: dict[str, Candidate],
    losses: dict[str, Losses],
    places: int,
    until: int,
    ledger: _Ledger,
    rungs: Sequence[float],
    groups: Mapping[str, str],
) -> list[str]:
    """Names that go on; the others are stopped, with the reason."""
    order = sorted(losses, key=lambda name: _mean(losses[name]))
    on, out = order[:places], order[places:]
    if out and rungs[0] < 1:
        last = on[-1]
        near = [n for n in out if not _behind(losses[n], losses[last], groups).decided]
        lost = {state[n].method for n in out} - {state[n].method for n in on}
        near.sort(key=lambda n: state[n].method not in lost)  # stable: then by loss
        if near and ledger.room(until, rungs, len(on) + 1):
            on.append(near[0])
    best = order[0]
    for name in order[1:]:
        behind = _behind(losses[name], losses[best], groups)
        state[name] = replace(state[name], behind=behind)
        if name not in on:
            state[name] = replace(
                state[name],
                decision="stopped",
                reason=(
                    f"After {until} of {ledger.steps} steps its development loss is "
                    f"{loss_change(behind)} above that of {best}."
                ),
            )
    return on


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
    failed, losses = "", list[tuple[str, float, int]]()
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
