"""`dw` in a forked child: torch is loaded once, and the child ends as a process of its own does."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path


def fork(
    arguments: Sequence[object],
    out: int | Path,
    err: Path,
    before: Callable[[], object] = lambda: None,
) -> int:
    """The process id of `dw ARGUMENTS`, its output and errors in files or in an open descriptor.

    before: called in the child first, for limits and signals.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        before()
        write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(err, write), 2)
        os.dup2(2 if out == err else out if isinstance(out, int) else os.open(out, write), 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        sys.argv = ["dw", *map(str, arguments)]
        from domainwright.cli.main import main

        main()
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            print("BrokenPipeError at the end", file=sys.stderr)
        os._exit(code)


def end(pid: int) -> int:
    """Its exit code, once it has ended; minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
