"""A round of refinement, and a watch, in the terminal."""

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from domainwright.cli._screen import visible
from domainwright.studies.refine.records import Drift, Refined, Wrong

LONGEST = 160
"""Characters of a question or an answer that are shown."""
CONFUSIONS = 5


def show(found: Refined, run: Path) -> None:
    """Errors by group, what was read for them, the decision."""
    console = Console()
    errors, proposal = found.errors, found.proposal
    console.print()
    _say(
        console,
        f"Round {found.round}: {errors.wrong} of {errors.asked} development rows wrong "
        f"({errors.rule}).",
    )
    for cluster in errors.clusters:
        _say(console, f"{cluster.name}: {cluster.errors}", style="bold")
        for example in cluster.examples:
            _hang(console, _told(example))
        _hang(console, cluster.advice)
    for one in errors.confusions[:CONFUSIONS]:
        _hang(console, f"{one.wanted!r} taken for {one.given!r}: {one.times} times")
    if errors.reported:
        _say(console, f"{len(errors.reported)} replies were rated as not wanted.", style="bold")
        for example in errors.reported[:3]:
            _hang(console, f"{_short(example.question)}  given: {_short(example.given)}")
    kind = "new rows" if proposal.source == "data" else "training rows again"
    made = f", {proposal.made} of them made" if proposal.made else ""
    often = "once" if proposal.times == 1 else f"{proposal.times} times"
    _say(
        console,
        f"Proposed: {proposal.chosen + proposal.made} {kind}{made} (of {proposal.offered}), each "
        f"read {often}, beside {proposal.old} old ones.",
        style="dim",
    )
    for reason, rows in proposal.set_aside.items():
        _say(console, f"  set aside: {reason} {rows}", style="dim")
    for what, rows in proposal.changed.items():
        _say(console, f"  changed: {what} {rows}", style="dim")
    console.print()
    _say(console, found.decision.sentence, style="bold")
    for reason in found.decision.reasons:
        _hang(console, reason)
    console.print()
    _say(console, f"round     {found.folder}", soft_wrap=True)
    _say(console, f"in force  {run / found.in_force}", soft_wrap=True)
    _say(console, f"try it    dw chat {shlex.quote(str(run))}", soft_wrap=True)


def show_drift(found: Drift) -> None:
    """What moved, and what is new."""
    console = Console()
    _say(console, found.sentence, style="bold")
    for shift in found.shifts:
        if shift.interval is not None:
            span = shift.interval
            _hang(
                console,
                f"loss of the questions under the base: {span.mean:+.3f} [{span.low:+.3f}, "
                f"{span.high:+.3f}] nats per token against the known ones (95 % interval)",
            )
        else:
            _hang(console, f"sentence vectors: squared mean discrepancy {shift.statistic:.4f}")
    if found.words:
        _hang(console, f"words of the new questions: {', '.join(found.words)}")
    for example in found.examples:
        _hang(console, f"least like any known one: {_short(example)}")
    for reason, rows in found.set_aside.items():
        _say(console, f"  set aside: {reason} {rows}", style="dim")


def _told(example: Wrong) -> str:
    return (
        f"{_short(example.question)}  wanted: {_short(example.wanted)}  "
        f"given: {_short(example.given) or '(empty)'}"
    )


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LONGEST else f"{flat[: LONGEST - 1]}…"


def _hang(console: Console, text: str) -> None:
    console.print(Padding(Text(visible(f"- {text}")), (0, 0, 0, 2)))


def _say(console: Console, text: str, **how: Any) -> None:
    # Questions, answers and paths come from users: brackets in them are no markup.
    console.print(visible(text), markup=False, emoji=False, highlight=False, **how)
