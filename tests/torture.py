"""Kill a training process again and again; its last weights must be those of a run left alone.

    python -m tests.torture [--kills 200] [--seed 0]

One process imports torch and forks a child for each attempt, which is `dw train` from its
arguments on; every tenth attempt is a new interpreter. Half of the kills come at a random moment
of the run, the others as soon as a temporary name shows that something is being written.
Signals are SIGKILL: nothing can be tidied up.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.forked import end, fork

ADAPTER = "adapter/adapter_model.safetensors"
FRESH = 10
"""Every so many attempts, a new interpreter instead of a fork."""


def start(study: Path, run: Path, *, fresh: bool = False) -> int:
    """`dw train … --resume`; returns its process id."""
    arguments = ["train", str(study), "--method", "lora", "-o", str(run), "--resume"]
    if fresh:
        dw = str(Path(sys.executable).with_name("dw"))
        return subprocess.Popen(
            [dw, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).pid
    return fork(arguments, Path(os.devnull), run.with_suffix(".log"))


def writing(run: Path) -> bool:
    """Whether something has a temporary name at this moment."""
    places = (run, run / "checkpoints")
    return any(True for place in places for _ in place.glob(".tmp-*"))


def ended(pid: int) -> int | None:
    """The exit code, or None while the process lives."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def kill_once(pid: int, run: Path, whole: float, rng: random.Random) -> tuple[int, bool]:
    """(exit code, whether the kill came while something was being written)."""
    aimed = rng.random() < 0.5
    until = time.monotonic() + rng.uniform(0, 1.2 * whole)
    while (code := ended(pid)) is None:
        now = time.monotonic()
        # An aimed kill passes over some writes, so that late ones are met as well as early ones.
        if (aimed and writing(run) and rng.random() < 0.1) or (not aimed and now >= until):
            time.sleep(rng.uniform(0, 0.002))
            inside = writing(run)
            os.kill(pid, signal.SIGKILL)
            return end(pid), inside
        time.sleep(0 if aimed else 0.001)
    return code, False


def torture(study: Path, folder: Path, kills: int, seed: int, tell=lambda line: None) -> Counter:
    """Runs killed `kills` times in all, each compared with the run left alone.

    Raises:
        AssertionError: other weights, or an attempt that ended in an error.
    """
    rng = random.Random(seed)
    begun = time.monotonic()
    straight = start(study, folder / "straight")
    assert end(straight) == 0, _log(folder / "straight")
    whole = time.monotonic() - begun
    want = (folder / "straight" / ADAPTER).read_bytes()
    counted: Counter = Counter()
    run = folder / "killed"
    while counted["kills"] < kills:
        counted["attempts"] += 1
        pid = start(study, run, fresh=counted["attempts"] % FRESH == 0)
        code, inside = kill_once(pid, run, whole, rng)
        if code == -signal.SIGKILL:
            counted["kills"] += 1
            counted["inside a write"] += inside
            if counted["kills"] % 10 == 0:
                tell(f"{counted['kills']} of {kills} kills, {counted['finished']} runs finished")
            continue
        _compare(code, run, want)
        counted["finished"] += 1
        shutil.rmtree(run)
    _compare(end(start(study, run)), run, want)
    counted["finished"] += 1
    return counted


def _compare(code: int, run: Path, want: bytes) -> None:
    assert code == 0, f"exit code {code}: {_log(run)}"
    assert (run / ADAPTER).read_bytes() == want, "the killed run ended with other weights"
    left = [p.name for place in (run, run / "checkpoints") for p in place.glob(".tmp-*")]
    assert not [name for name in left if "step-" in name], f"left behind: {left}"


def _log(run: Path) -> str:
    log = run.with_suffix(".log")
    return log.read_text()[-2000:] if log.exists() else ""


def make_study(folder: Path) -> Path:
    """A study of a tiny base; a checkpoint after every step."""
    from tests.studies import world

    base = world.save_base(folder / "base")
    train = {"steps": 12, "checkpoint_every": 1, "checks": 3}
    return world.study_file(folder / "study", base, train=train)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # forked children of a process whose threads ran would hang
    folder = Path(tempfile.mkdtemp())
    begun = time.monotonic()
    tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    counted = torture(make_study(folder), folder, options.kills, options.seed, tell)
    print(f"{dict(counted)} in {time.monotonic() - begun:.0f} s: equal weights every time")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
