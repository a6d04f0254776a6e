"""The verdict in the terminal."""

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from domainwright.cli._screen import visible
from domainwright.studies import coherence
from domainwright.studies._facts import asked_items
from domainwright.studies._format import unit
from domainwright.studies.entities import told
from domainwright.studies.records import Verdict
from domainwright.studies.table import render_table, verdict_rows

WIDTH = 80
"""Columns the table needs. A narrower terminal gets a list instead of cut numbers."""


def show(verdict: Verdict, folder: Path) -> None:
    """Table, recommendation, paths."""
    console = Console()
    data = verdict.data

    def say(text: str, **how: Any) -> None:
        # Names, reasons and paths come from users: brackets in them are no markup.
        console.print(visible(text), markup=False, emoji=False, highlight=False, **how)

    console.print()
    table = render_table(verdict)
    if console.width >= WIDTH:
        console.print(table)
    else:
        heading, rows = verdict_rows(verdict)
        for row in rows:
            say(row[0], style="bold")
            for name, cell in zip(heading[1:], row[1:], strict=True):
                if cell:
                    say(f"  {name}: {cell}")
        console.print(table.caption)
    for result in verdict.strategies:
        if result.reason:
            say(f"{result.name}: {result.status}. {result.reason}")
    for result in verdict.strategies:
        if result.entities:
            say(f"{result.name}: {told(result.entities)}.")
    say(
        f"{asked_items(data)} in {data.groups} groups; {data.train} training rows, "
        f"{sum(data.set_aside.values())} set aside; {verdict.minutes:.1f} minutes.",
        style="dim",
    )
    if verdict.search:
        raced = verdict.search.winner
        say(
            f"The search raced {len(verdict.search.candidates)} candidates; {raced.method} at "
            f"learning rate {raced.learning_rate:g} won.",
            style="dim",
        )
    for found in verdict.inflation:
        if found.memory.low > 0:
            more = unit(verdict.score).changes(found.memory)
            say(f"{found.strategy} gained {more} more on test rows that training rows give away.")
    for turns in verdict.turns:
        say(coherence.told(turns, verdict.score))
    console.print()
    say(verdict.recommendation.sentence, style="bold")
    for reason in verdict.recommendation.reasons:
        hanging = Padding(Text(visible(f"- {reason}")), (0, 0, 0, 2))
        console.print(hanging)
    if verdict.recommendation.would_change:
        say("What would change this answer:")
        for sentence in verdict.recommendation.would_change:
            console.print(Padding(Text(visible(f"- {sentence}")), (0, 0, 0, 2)))
    console.print()
    winner = next(r for r in verdict.strategies if r.name == verdict.recommendation.strategy)
    # soft_wrap: a path broken over two lines cannot be copied or clicked.
    say(f"report   {folder / 'report.html'}", soft_wrap=True)
    for task, place in winner.adapters.items():
        say(f"adapter of {task}  {folder / place}", soft_wrap=True)
    if winner.adapter:
        say(f"adapter  {folder / winner.adapter}", soft_wrap=True)
    say(f"try it   dw chat {shlex.quote(str(folder))}", soft_wrap=True)
