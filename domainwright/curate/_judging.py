"""Records to pieces: judged here, or by several processes at once.

A worker is `python -m domainwright.curate._judging`. It reads a task and then records from its
standard input and writes the pieces itself, so nothing but a word for each piece comes back.
Unlike `multiprocessing` it does not import the user's program again, and it ends by itself when
whoever began it is gone: its input ends.
"""

import concurrent.futures
import contextlib
import os
import pickle
import queue
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainwright.core.errors import CapabilityError
from domainwright.core.records import Row, SetAside
from domainwright.curate._chunks import Piece, Workshop
from domainwright.curate._unread import dropped_unread
from domainwright.curate.curated import dropped_line
from domainwright.curate.filters import Filter, Sample
from domainwright.curate.judge import Judge, Outcome

Items = Sequence[Row | SetAside]
Judging = Callable[[int, Items], None]
"""Has the records of a piece judged and written, under its number."""


@dataclass(frozen=True, slots=True)
class Task:
    """What judging a piece depends on."""

    filters: tuple[tuple[str, Filter], ...]
    sample: Sample
    folder: str
    """Of the pieces."""
    keep_secrets: bool


class PieceMaker:
    """Judges a run of records and writes what became of it."""

    def __init__(self, task: Task) -> None:
        self._judge = Judge(task.filters, task.sample)
        self._shop, self._keep_secrets = Workshop(Path(task.folder)), task.keep_secrets

    def make(self, number: int, items: Items) -> None:
        rows, piece = judged(items, self._judge, self._keep_secrets)
        self._shop.write(number, rows, piece)


@contextlib.contextmanager
def judging(task: Task, workers: int) -> Iterator[Judging]:
    """All pieces are written at the end of the block.

    Raises:
        CapabilityError: a worker was ended from outside, as by lack of memory.
    """
    if workers == 1:
        yield PieceMaker(task).make
        return
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(_Worker(task)).make for _ in range(workers)]
        yield stack.enter_context(shared_out(made))


@contextlib.contextmanager
def shared_out(workers: Sequence[Judging]) -> Iterator[Judging]:
    """Every piece to a worker that is idle; all are done at the end of the block.

    Args:
        workers: each has one piece at a time, and comes back when that is written.
    """
    idle, going = queue.SimpleQueue[Judging](), set[Future[None]]()
    for worker in workers:
        idle.put(worker)

    def one(number: int, items: Items) -> None:
        worker = idle.get()
        try:
            worker(number, items)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(len(workers)) as threads:

        def judge(number: int, items: Items) -> None:
            # One piece beyond those in work is ready; more would only fill the memory.
            while len(going) > len(workers):
                _first_done(going)
            going.add(threads.submit(one, number, items))

        yield judge
        while going:
            _first_done(going)


def _first_done(going: set[Future[None]]) -> None:
    done, _ = concurrent.futures.wait(going, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in done:
        going.discard(future)
        future.result()


class _Worker:
    def __init__(self, task: Task) -> None:
        home = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            # Ctrl-C is for whoever began it.
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._send(task)

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *error: object) -> None:
        # Also where the work failed, so never wait for what it is busy with.
        self._process.kill()
        for pipe in (self._in, self._out):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()

    def make(self, number: int, items: Items) -> None:
        """Have a piece written.

        Raises:
            CapabilityError: the worker is gone.
            Exception: what went wrong in it.
        """
        self._send((number, items))
        try:
            error = pickle.load(self._out)
        except EOFError:
            raise self._gone() from None
        if error is not None:
            raise error

    def _send(self, what: Any) -> None:
        try:
            pickle.dump(what, self._in, pickle.HIGHEST_PROTOCOL)
            self._in.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def _gone(self) -> CapabilityError:
        return CapabilityError(
            f"A worker of the curation ended with exit code {self._process.wait()}.",
            "run the command again, it goes on where it was; where memory is short, add "
            "--workers 1.",
        )


def _work() -> None:
    """Pieces from standard input until it ends; for each, None or the error."""
    given, told = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Whatever prints must not come between.
    os.dup2(2, 1)
    try:
        make = PieceMaker(pickle.load(given)).make
        while True:
            number, items = pickle.load(given)
            error: Exception | None = None
            try:
                make(number, items)
            except Exception as found:
                error = found
            pickle.dump(error, told)
            told.flush()
    except (EOFError, BrokenPipeError):
        return


def judged(
    items: Sequence[Row | SetAside], judge: Judge, keep_secrets: bool
) -> tuple[list[Row], Piece]:
    rows, dropped, changed = list[Row](), list[dict[str, Any]](), list[dict[str, Any]]()
    secrets = dict[str, dict[str, str]]()
    outcomes = iter(judge([item for item in items if isinstance(item, Row)]))
    for item in items:
        if isinstance(item, SetAside):
            dropped.append(dropped_unread(item))
            continue
        outcome = next(outcomes)
        if outcome.dropped is not None:
            name, drop = outcome.dropped
            dropped.append(dropped_line(item, name, drop.reason, drop.detail))
            continue
        rows.append(outcome.row)
        changed += _changes(item, outcome)
        stood = {key: text for _, change in outcome.changes for key, text in change.secrets.items()}
        if keep_secrets and stood:
            secrets[item.id] = stood
    kinds = dict(Counter(type(row).__name__.lower() for row in rows))
    return rows, Piece(
        records=len(items), dropped=dropped, changed=changed, secrets=secrets, kinds=kinds
    )


def _changes(row: Row, outcome: Outcome) -> list[dict[str, Any]]:
    """Lines of changed.jsonl: what was done and how often, never what stood there."""
    return [
        {
            "file": row.file,
            "line": row.line,
            "id": row.id,
            "filter": name,
            "what": change.what,
            "before": change.count,
            "after": 0,
            **({"kinds": dict(change.kinds)} if change.kinds else {}),
        }
        for name, change in outcome.changes
    ]


if __name__ == "__main__":
    _work()
