"""`dw` as a process: signals, pipes, two at once. Children are forked, so torch loads once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from domainwright.core.artifacts import sha256_file
from tests.forked import end, fork
from tests.studies import world

pytestmark = pytest.mark.usefixtures("quick")
DW = Path(sys.executable).with_name("dw")
ADAPTER = "trials/lora/adapter/adapter_model.safetensors"


class Child:
    """`dw` with these arguments in a forked child; stdout and stderr in files."""

    def __init__(self, folder, *arguments, stdout=None):
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        self.pid = fork(arguments, self.out if stdout is None else stdout, self.err)

    def wait_for(self, text):
        for _ in range(3000):
            if self.err.exists() and text in self.err.read_text():
                return
            time.sleep(0.01)
        raise AssertionError(f"{text!r} never came: {self.err.read_text()}")

    def end(self):
        return end(self.pid)


@pytest.fixture(scope="module")
def study(tmp_path_factory, base):
    # Enough that a parent that is kept waiting still finds the run unfinished.
    train = {"steps": 300, "checkpoint_every": 400}
    return world.study_file(tmp_path_factory.mktemp("study"), base, train=train)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_once_it_can_be_resumed(study, tmp_path, number):
    run = tmp_path / "run"
    child = Child(tmp_path, "decide", study, "-o", run)
    child.wait_for("train lora  1/300")
    os.kill(child.pid, number)
    assert child.end() == 130
    said = child.err.read_text()
    assert "stopping after this step (once more: at once)" in said
    assert said.endswith("interrupted. Run the command with --resume to go on.\n")
    assert "Traceback" not in said and child.out.read_text() == ""
    steps = list((run / "trials/lora/checkpoints").iterdir())
    assert len(steps) == 1 and steps[0].name < "step-0000300"
    if number == signal.SIGINT:
        assert Child(tmp_path, "decide", study, "-o", run, "--resume").end() == 0
        assert Child(tmp_path, "decide", study, "-o", tmp_path / "whole").end() == 0
        assert sha256_file(run / ADAPTER) == sha256_file(tmp_path / "whole" / ADAPTER)


def test_interrupted_before_training(study, tmp_path):
    child = Child(tmp_path, "decide", study, "-o", tmp_path / "run")
    child.wait_for("retention base")
    os.kill(child.pid, signal.SIGINT)
    assert child.end() == 130


def test_a_verb_that_cannot_resume_does_not_promise_it(base, study, tmp_path):
    child = Child(tmp_path, "evaluate", base, "--data", study.parent / "train.jsonl")
    child.wait_for("evaluate")
    os.kill(child.pid, signal.SIGINT)
    os.kill(child.pid, signal.SIGINT)
    code, said = child.end(), child.err.read_text()
    # It may have been done before the signal came.
    assert code in (0, 130) and "--resume" not in said and "Traceback" not in said


def test_two_at_once_in_one_folder(study, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = Child(tmp_path / "a", "decide", study, "-o", tmp_path / "run")
    first.wait_for("train lora  1/300")
    second = Child(tmp_path / "b", "decide", study, "-o", tmp_path / "run", "--resume")
    assert second.end() == 2
    assert second.err.read_text().startswith("error: Another process is working in ")
    assert first.end() == 0


@pytest.mark.parametrize("verb", [["methods"], ["domains", "--json"], ["--help"], ["decide", "-h"]])
def test_a_reader_that_leaves_is_no_error(tmp_path, verb):
    reads, writes = os.pipe()
    os.close(reads)
    child = Child(tmp_path, *verb, stdout=writes)
    os.close(writes)
    assert child.end() in (0, 1)
    assert child.err.read_text() == ""


def shell(command, **changes):
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PATH": f"{DW.parent}:{os.environ['PATH']}", **changes},
    )


def test_a_pipe_into_head_for_real():
    done = shell("dw --help | head -n 1 && dw decide --help | head -c 1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Usage: dw [OPTIONS] COMMAND [ARGS]...\nU"


def test_a_terminal_of_another_alphabet(tmp_path):
    """Characters it lacks are spelled out; nothing ends in an encoding error."""
    path = tmp_path / "größe"
    done = shell(f"dw report '{path}'", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 3 and "holds no verdict.json" in done.stderr
    assert "gr\\xf6\\xdfe" in done.stderr and "Traceback" not in done.stderr


def test_the_long_name_is_the_same_program():
    assert shell("domainwright --help").stdout == shell("dw --help").stdout
