"""A run that is killed again and again ends with the weights of the undisturbed one, bit for bit.

One process imports torch and forks a child for every attempt: a fresh interpreter each time
would spend the whole test importing.
"""

import subprocess
import sys

import pytest

SERVER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from domainwright.train.loop import train
from domainwright.core.artifacts import sweep
from safetensors.torch import load_file, save_file
from tests.train.runs import make_job

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)
ready, tell = os.pipe()


def child(name):
    job = make_job(folder / name, checkpoint_every=1, steps=14, method={"rank": 4, "dropout": 0.2})
    trained = train(job, resume=True, listen=lambda s: os.write(tell, b"."))
    save_file(dict(job.adapter.state_dict()), folder / name / "end")
    lines = [{k: v for k, v in x.items() if k != "seconds"} for x in trained.history]
    (folder / name / "history").write_text(repr(lines))


def start(name):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            child(name)
            code = 0
        finally:
            os._exit(code)
    return pid


def finish(pid):
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)


begun = time.monotonic()
assert finish(start("straight")) == 0
whole = time.monotonic() - begun
os.read(ready, 100000)
kills = 0
while kills < 8:
    pid = start("killed")
    os.read(ready, 1)  # the first step is done; after it, anywhere
    time.sleep(rng.uniform(0, whole / 5))
    os.kill(pid, signal.SIGKILL)
    code = finish(pid)
    assert code in (0, -signal.SIGKILL), code
    if code == 0:
        break
    kills += 1
if not (folder / "killed" / "end").exists():
    assert finish(start("killed")) == 0
a, b = (load_file(folder / name / "end") for name in ("straight", "killed"))
assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
assert (folder / "straight" / "history").read_text() == (folder / "killed" / "history").read_text()
left = [p.name for p in (folder / "killed" / "checkpoints").iterdir() if p.name[0] == "."]
sweep(folder / "killed" / "checkpoints")
assert not [p for p in (folder / "killed" / "checkpoints").iterdir() if p.name[0] == "."]
print("killed", kills, "times")
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_runs_end_with_the_same_weights(tmp_path, seed):
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(tmp_path), str(seed)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-2]) >= 3
