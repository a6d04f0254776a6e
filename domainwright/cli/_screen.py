"""Progress on the screen: a table and one live line, or plain lines when not a terminal."""

import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    asked = told = False

    def tell() -> None:
        nonlocal told
        if asked and not told:
            print("stopping after this step (once more: at once)", file=sys.stderr)
            told = True

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        # It may come while a line is written, where no other can be; it is told after that one.
        with suppress(RuntimeError):
            tell()

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    bars = _Bars() if sys.stderr.isatty() else None
    show = bars.show if bars else _lines()

    def listen(step: Step) -> None:
        show(step)
        tell()
        # Training stops itself after writing a checkpoint; everything else can be repeated.
        if asked and not step.stage.startswith("train "):
            raise KeyboardInterrupt

    try:
        with warnings.catch_warnings():
            warnings.showwarning = _in_one_line(warnings.showwarning)
            yield listen, lambda: asked
    finally:
        if bars:
            bars.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_one_line(show: Callable[..., None]) -> Callable[..., None]:
    """Our own warnings without the place in the code; those of others as they were."""

    def shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if category.__module__.startswith("domainwright."):
            print(f"warning: {visible(str(message))}", file=sys.stderr)
        else:
            show(message, category, *place, **more)

    return shown


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


class _Bars:
    """One line that moves; of a study, under the table of its strategies.

    What took a while leaves a line behind, and so does every strategy: at once where there is no
    table, and when the table goes.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import Progress

        self.console = Console(stderr=True)
        self.bars = Progress(*_columns(self.console.width), console=self.console)
        self.begun = time.monotonic()
        self.last: Step | None = None
        self.now: tuple[_Stage, Any] | None = None
        self.kept: list[str] = []
        self.live = Live(
            console=self.console,
            get_renderable=self._picture,
            refresh_per_second=5,
            transient=True,
        )
        self.live.start()

    def show(self, step: Step) -> None:
        before, self.last = self.last, step
        self._follow(before, step)
        if before is None or _states(before) != _states(step):
            # At once: a busy machine may draw the next picture late.
            self.live.refresh()

    def _follow(self, before: Step | None, step: Step) -> None:
        if self.now and before and (before.stage != step.stage or step.done < before.done):
            self._end(before)
        if step.stage == OVERALL:
            self._keep(f"{step.done} of {step.total}  {_facts(step)}")
            return
        if self.now is None:
            # `completed`: the steps of a run that is resumed took no time now.
            task = self.bars.add_task(
                step.stage, total=step.total, completed=step.done, facts=_facts(step)
            )
            self.now = _Stage(step), task
        else:
            self.bars.update(self.now[1], completed=step.done, total=step.total, facts=_facts(step))
        if step.done >= step.total:
            self._end(step)

    def close(self) -> None:
        if self.now and self.last:
            self._end(self.last)
        self.live.stop()
        for text in self.kept:
            self._print(text)

    def _end(self, last: Step) -> None:
        assert self.now is not None
        stage, task = self.now
        self.bars.remove_task(task)
        if last.done and stage.seconds > WORTH_A_LINE:
            part = "" if last.done >= last.total else f" of {last.total}"
            self._keep(f"{stage.name}: {last.done}{part} in {stage.seconds:.0f} s  {_facts(last)}")
        self.now = None

    def _keep(self, text: str) -> None:
        if self.last and self.last.standings:
            self.kept.append(text)
        else:
            self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(visible(text), markup=False, highlight=False, no_wrap=True, emoji=False)

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        from domainwright.cli._standings import clock, table

        step = self.last
        if step is None or not step.standings:
            return self.bars
        width, height = self.console.size
        over = sum(s.status in ("done", "failed") for s in step.standings)
        words = [f"{over} of {len(step.standings)} strategies"]
        words.append(f"{clock(time.monotonic() - self.begun)} passed")
        if step.left_s is not None:
            words.append(f"about {clock(step.left_s)} left")
        line = Text(", ".join(words), style="dim", no_wrap=True, overflow="ellipsis")
        # Heading, summary, moving line and one that stays free.
        return Group(table(step.standings, width, max(1, height - 5)), line, self.bars)


def _states(step: Step) -> list[str]:
    return [standing.status for standing in step.standings]


def _columns(width: int) -> list[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("{task.description}", markup=False), MofNCompleteColumn()]
    if width >= 60:
        columns.insert(1, BarColumn(bar_width=16))
    columns.append(TimeRemainingColumn(compact=True))
    if width >= 72:
        columns.append(TextColumn("{task.fields[facts]}", markup=False))
    return columns


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
