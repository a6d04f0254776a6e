"""The verdict in the terminal."""

from pathlib import Path

from rich.console import Console

from domainwright.studies.records import Verdict
from domainwright.studies.table import render_table


def show(verdict: Verdict, folder: Path) -> None:
    """Table, recommendation, paths."""
    console = Console()
    data = verdict.data
    console.print()
    console.print(render_table(verdict))
    for result in verdict.strategies:
        if result.reason:
            console.print(f"{result.name}: {result.status}. {result.reason}", highlight=False)
    console.print(
        f"{data.tested} test items in {data.groups} groups; {data.train} training rows, "
        f"{sum(data.set_aside.values())} set aside; {verdict.minutes:.1f} minutes.",
        highlight=False,
        style="dim",
    )
    console.print()
    console.print(verdict.recommendation.sentence, style="bold", highlight=False)
    for reason in verdict.recommendation.reasons:
        console.print(f"  · {reason}", highlight=False)
    console.print()
    winner = next(r for r in verdict.strategies if r.name == verdict.recommendation.strategy)
    # soft_wrap: a path broken over two lines cannot be copied or clicked.
    console.print(f"report   {folder / 'report.html'}", soft_wrap=True, highlight=False)
    if winner.adapter:
        console.print(f"adapter  {folder / winner.adapter}", soft_wrap=True, highlight=False)
    console.print(f"try it   dw chat {folder}", soft_wrap=True, highlight=False)
