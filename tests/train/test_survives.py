"""What can happen to a training process from outside: each with its outcome."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from domainwright.core.lock import lock
from domainwright.train import checkpoint
from tests import torture
from tests.forked import end, fork

SERVER = """
import os, sys
from pathlib import Path
os.environ["OMP_NUM_THREADS"] = "1"
import torch
torch.set_num_threads(1)
from tests.torture import make_study, torture
folder = Path(sys.argv[1])
print(dict(torture(make_study(folder), folder, int(sys.argv[2]), int(sys.argv[3]))))
"""


def test_killed_in_the_middle_of_anything(tmp_path):
    """The short version of `make torture`."""
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(tmp_path), "5", "3"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "'kills': 5" in done.stdout


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return torture.make_study(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def straight(study, tmp_path_factory):
    run = tmp_path_factory.mktemp("straight") / "run"
    assert end(dw(study, run)) == 0
    return (run / torture.ADAPTER).read_bytes()


def dw(study, run, *, limit=None, changes=()):
    """`dw train --resume` in a child; `limit`: largest file it may write, in bytes."""
    run.parent.mkdir(parents=True, exist_ok=True)
    sets = [x for change in changes for x in ("--set", change)]
    arguments = ["train", study, "--method", "lora", "-o", run, "--resume", *sets]

    def before():
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return fork(arguments, said_in(run), said_in(run), before)


def said_in(run):
    return run.parent / (run.name + ".log")


def stopped(study, run, number=signal.SIGTERM):
    """A run that was stopped after some steps."""
    pid = dw(study, run)
    for _ in range(6000):
        if list((run / "checkpoints").glob("step-*")):
            break
        time.sleep(0.002)
    os.kill(pid, number)
    return end(pid)


def refused(study, run, code, *words, **how):
    assert end(dw(study, run, **how)) == code
    said = said_in(run).read_text()
    assert all(word in said for word in words), said
    assert "error: " in said and "fix: " in said and "Traceback" not in said


def resumes(study, run, straight):
    assert end(dw(study, run)) == 0, said_in(run).read_text()
    assert (run / torture.ADAPTER).read_bytes() == straight


def test_sigterm_writes_a_checkpoint_and_ends_in_130(study, straight, tmp_path):
    run = tmp_path / "run"
    assert stopped(study, run) == 130
    assert "--resume" in said_in(run).read_text() and not (run / "adapter").exists()
    resumes(study, run, straight)


def test_a_file_that_may_not_grow(study, straight, tmp_path):
    """A quota or a file size limit: the checkpoint is refused whole, then the run goes on."""
    run = tmp_path / "run"
    assert stopped(study, run) == 130
    steps = sorted(p.name for p in (run / "checkpoints").iterdir())
    refused(study, run, 4, "File too large", "free space there", limit=40_000)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == steps
    resumes(study, run, straight)


def test_no_room_for_an_optimisers_state_that_is_to_lie_on_the_disk(study, straight, tmp_path):
    run = tmp_path / "run"
    offload = ["train.offload=true"]
    refused(study, run, 4, "File too large", "free space there", limit=40_000, changes=offload)
    assert "checkpoints" not in said_in(run).read_text()  # not only where that would be too large
    resumes(study, run, straight)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of three MiB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(study, straight, small_disk):
    run = small_disk / "run"
    assert stopped(study, run) == 130
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    refused(study, run, 4, "No space left on device")
    filler.unlink()
    resumes(study, run, straight)


def test_a_full_disk_is_an_os_error_whoever_finds_it():
    from safetensors import SafetensorError

    with pytest.raises(OSError, match="No space left") as caught, checkpoint.disk_errors("here"):
        raise SafetensorError("Error while serializing: I/O error: No space (os error 28)")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(SafetensorError), checkpoint.disk_errors("here"):
        raise SafetensorError("something else")


def test_a_file_in_the_place_of_the_folder(study, tmp_path):
    (tmp_path / "run").write_text("mine")
    refused(study, tmp_path / "run", 2, "is a file, not a folder")
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_may_not_be_written(study, tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    refused(study, tmp_path / "run", 2, "cannot be written to")


def test_a_disk_that_may_not_be_written(study, small_disk):
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    (small_disk / "run").mkdir()
    subprocess.run(remount, check=True)
    link = small_disk.parent / "run"
    link.symlink_to(small_disk / "run")
    pid = dw(study, link)
    assert end(pid) in (2, 4)
    said = said_in(link).read_text()
    assert "error: " in said and "Traceback" not in said


def test_a_second_process_in_the_folder(study, tmp_path):
    with lock(tmp_path / "run"):
        refused(study, tmp_path / "run", 2, "Another process is working in")


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(study, straight, tmp_path, damage):
    run = tmp_path / "run"
    assert stopped(study, run) == 130
    newest = sorted((run / "checkpoints").glob("step-*"))[-1] / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(bytes(data[: len(data) // 2] if damage == "truncated" else data))
    resumes(study, run, straight)


def test_other_data_on_resume(study, tmp_path):
    run, own = tmp_path / "run", tmp_path / "study"
    shutil.copytree(study.parent, own)
    assert stopped(own / "study.yaml", run) == 130
    rows = (own / "train.jsonl").read_text().splitlines()
    first = json.loads(rows[0])
    rows[0] = json.dumps(first | {"answer": "another answer altogether"})
    (own / "train.jsonl").write_text("\n".join(rows) + "\n")
    refused(own / "study.yaml", run, 2, "other data, settings or base")


def test_other_settings_on_resume(study, straight, tmp_path):
    run = tmp_path / "run"
    assert stopped(study, run) == 130
    refused(study, run, 2, "other data, settings or base", changes=["train.learning_rate=0.02"])
    refused(study, run, 2, "other data, settings or base", changes=["methods={lora: {rank: 3}}"])
    # The refusal changed nothing.
    resumes(study, run, straight)
