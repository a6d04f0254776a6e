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
WORTH_A_LINE = 2.0
"""Seconds from which a finished stage leaves a line on a terminal."""
OVERALL = "strategies"
"""The stage that counts the others; each of its steps stays on the screen."""
_UNSEEN = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\t\n"} | {
    n: f"\\u{n:04x}" for n in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def visible(text: str) -> str:
    """Text of a user or a model with its control characters spelled out.

    A terminal obeys them: a data file could clear the screen or write into the title.

    >>> visible("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return text.replace("\r\n", "\n").translate(_UNSEEN)


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


class _Stage:
    """What is going on, since when, and how fast."""

    def __init__(self, step: Step) -> None:
        self.name, self.first, self.begun = step.stage, step.done, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def left(self, step: Step) -> float | None:
        """Seconds to go. What a resumed run did before does not count as fast work."""
        done = step.done - self.first
        return self.seconds / done * (step.total - step.done) if done > 0 else None


def _bars() -> tuple[Listener, Callable[[], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = [TextColumn("{task.description}", markup=False), MofNCompleteColumn()]
    if console.width >= 60:
        columns.insert(1, BarColumn(bar_width=16))
    columns.append(TimeRemainingColumn(compact=True))
    if console.width >= 72:
        columns.append(TextColumn("{task.fields[facts]}", markup=False))
    # One line moves; what took a while leaves a line behind, and so does every strategy.
    bars = Progress(*columns, console=console, transient=True)
    bars.start()
    now: tuple[_Stage, Any, Step] | None = None

    def keep(text: str) -> None:
        console.print(visible(text), markup=False, highlight=False, no_wrap=True, emoji=False)

    def end() -> None:
        nonlocal now
        if now is None:
            return
        stage, task, last = now
        bars.remove_task(task)
        if last.done and stage.seconds > WORTH_A_LINE:
            part = "" if last.done >= last.total else f" of {last.total}"
            keep(f"{stage.name}: {last.done}{part} in {stage.seconds:.0f} s  {_facts(last)}")
        now = None

    def show(step: Step) -> None:
        nonlocal now
        if now is None or now[0].name != step.stage or step.done < now[2].done:
            end()
        if step.stage == OVERALL:
            keep(f"{step.done} of {step.total}  {_facts(step)}")
            return
        if now is None:
            # `completed`: the steps of a run that is resumed took no time now.
            task = bars.add_task(
                step.stage, total=step.total, completed=step.done, facts=_facts(step)
            )
            now = _Stage(step), task, step
        else:
            bars.update(now[1], completed=step.done, total=step.total, facts=_facts(step))
            now = now[0], now[1], step
        if step.done >= step.total:
            end()

    def close() -> None:
        end()
        bars.stop()

    return show, close


def _lines() -> Listener:
    stage: _Stage | None = None
    last = 0.0

    def show(step: Step) -> None:
        nonlocal stage, last
        fresh = stage is None or stage.name != step.stage
        if stage is None or fresh:
            stage = _Stage(step)
        now = time.monotonic()
        if not fresh and step.done < step.total and now - last < QUIET_SECONDS:
            return
        last = now
        left = stage.left(step)
        ahead = f"{left:.0f} s left" if step.done < step.total and left is not None else ""
        parts = [step.stage, f"{step.done}/{step.total}", _facts(step), ahead]
        print("  ".join(p for p in parts if p), file=sys.stderr, flush=True)

    return show


def _facts(step: Step) -> str:
    return "  ".join(f"{key} {value}" for key, value in step.facts.items())
