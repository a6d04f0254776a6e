"""Progress on the screen: one live line per stage, or plain lines when not a terminal."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from domainwright.core.progress import Listener, Step

QUIET_SECONDS = 10.0
"""Between two plain lines of one stage."""


@contextmanager
def progress() -> Iterator[tuple[Listener, Callable[[], bool]]]:
    """(listener, stop): the first Ctrl-C or SIGTERM asks to stop, the second stops at once."""
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("stopping after this step (once more: at once)", file=sys.stderr)

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    show, close = _bars() if sys.stderr.isatty() else (_lines(), lambda: None)

    def listen(step: Step) -> None:
        show(step)
        # Training stops itself after writing a checkpoint; everything else can be repeated.
        if asked and not step.stage.startswith("train "):
            raise KeyboardInterrupt

    try:
        yield listen, lambda: asked
    finally:
        close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _bars() -> tuple[Listener, Callable[[], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bars = Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
        console=Console(stderr=True),
        transient=False,
    )
    bars.start()
    known: dict[str, Any] = {}

    def show(step: Step) -> None:
        facts = "  ".join(f"{k} {v}" for k, v in step.facts.items())
        if step.stage not in known:
            for task in known.values():
                if not bars.tasks[task].finished:
                    bars.update(task, visible=False)
            known[step.stage] = bars.add_task(step.stage, total=step.total, facts=facts)
        bars.update(
            known[step.stage], completed=step.done, total=step.total, facts=facts, visible=True
        )

    return show, bars.stop


def _lines() -> Listener:
    last: dict[str, float] = {}
    begun: dict[str, float] = {}

    def show(step: Step) -> None:
        now = time.monotonic()
        begun.setdefault(step.stage, now)
        if step.done < step.total and now - last.get(step.stage, 0.0) < QUIET_SECONDS:
            return
        last[step.stage] = now
        facts = "  ".join(f"{k} {v}" for k, v in step.facts.items())
        spent = now - begun[step.stage]
        left = spent / step.done * (step.total - step.done) if step.done else 0.0
        ahead = f"  {left:.0f} s left" if step.done < step.total and spent > 2 else ""
        print(
            f"{step.stage}  {step.done}/{step.total}  {facts}{ahead}".rstrip(),
            file=sys.stderr,
            flush=True,
        )

    return show
