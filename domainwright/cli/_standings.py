"""The strategies of a study as a table that fills in while it runs."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from domainwright.core.progress import Standing

NAME, DOING, SCORE = 21, 26, 31
"""Characters of the columns: fixed, so that nothing jumps; with gaps they fill 80."""
STYLES = {"waiting": "dim", "running": "bold cyan", "done": "", "failed": "red"}


def table(standings: Sequence[Standing], width: int, lines: int) -> Table:
    """At most `lines` strategies, the running one among them.

    Where there is no room for a column of scores, a score takes the place of "done".

    Args:
        width: columns of the terminal.
    """
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    name = min(NAME, 1 + max((len(s.name) for s in standings), default=0))
    wide = width >= name + DOING + SCORE + 2
    shown.add_column("strategy", width=name, no_wrap=True)
    shown.add_column("state", width=DOING if wide else SCORE, no_wrap=True)
    if wide:
        shown.add_column(Text("score [95 %]"), width=SCORE, no_wrap=True)
    first, last = _window(standings, lines)
    for number in range(first, last):
        standing = standings[number]
        style = STYLES[standing.status]
        state = standing.doing or standing.status
        if standing.score and not wide:
            state = standing.score
        cells = [standing.name, state, standing.score][: 3 if wide else 2]
        shown.add_row(*(Text(words, style=style, overflow="ellipsis") for words in cells))
    hidden = len(standings) - (last - first)
    if hidden:
        shown.add_row(Text(f"and {hidden} more", style="dim"), *[""] * (2 if wide else 1))
    return shown


def _window(standings: Sequence[Standing], lines: int) -> tuple[int, int]:
    """Which strategies are shown: two before the running one, and what comes next."""
    if len(standings) <= lines:
        return 0, len(standings)
    running = next((n for n, s in enumerate(standings) if s.status in ("running", "waiting")), 0)
    first = max(0, min(running - 2, len(standings) - lines))
    return first, first + lines


def clock(seconds: float) -> str:
    """A duration for a line that moves.

    >>> clock(9), clock(250), clock(4000)
    ('0:09', '4:10', '1:06:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
