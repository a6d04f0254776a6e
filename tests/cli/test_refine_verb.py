"""`dw refine` as users meet it, and as a process that is interrupted."""

import json
import os
import re
import shutil
import signal
import time

import pytest
from typer.main import get_command

from domainwright.cli.main import app
from domainwright.core.artifacts import sha256_file
from domainwright.core.lock import lock
from domainwright.models.encoder import default_encoder
from tests.forked import end, fork
from tests.studies import world

pytestmark = pytest.mark.usefixtures("quick")
PLANTS = [f"{name}{end}" for end in ("", "wort") for name in world.PLANTS]
"""Enough groups for a gain to be significant."""
CHALLENGER = "refine/round-1/trial/adapter/adapter_model.safetensors"


@pytest.fixture
def decided(request, dw, base, tmp_path_factory):
    """A finished study that no test changes."""
    if not hasattr(request.module, "_run"):
        folder = tmp_path_factory.mktemp("study")
        rows = world.questions(PLANTS)
        study = world.study_file(folder, base, rows=rows, data={"development_share": 0.4})
        assert dw("decide", study, "-o", folder / "run").code == 0
        request.module._run = folder / "run"
    return request.module._run


@pytest.fixture
def run(decided, tmp_path):
    return shutil.copytree(decided, tmp_path / "run")


def test_help_fits_a_screen_and_names_every_option(dw):
    said = dw("refine", "--help")
    assert said.code == 0 and said.err == ""
    lines = said.out.rstrip("\n").split("\n")
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    for parameter in get_command(app).commands["refine"].params:
        assert any(option in said.out for option in parameter.opts)
    assert re.search(r"^  refine +Train on rows like.*better\.$", dw("--help").out, re.MULTILINE)


def test_a_round_is_told(dw, run):
    said = dw("refine", run, "--strategy", "lora")
    assert said.code == 0, said.err
    shown = " ".join(said.out.split())
    assert "development rows wrong (token f1 below 0.5)." in shown
    assert "write or collect about" in shown and "wanted:" in shown
    assert "Refused, the champion stays: no gain is shown" in shown
    assert f"in force  {run}/trials/lora/adapter" in said.out
    assert "\x1b" not in said.out
    assert re.search(r"^train lora  1/1  loss \d", said.err, re.MULTILINE)
    # A whole round is read back.
    told = json.loads(dw("refine", run, "--strategy", "lora", "--resume", "--json").out)
    folder = run / "refine/round-1"
    assert told["decision"] == json.loads((folder / "decision.json").read_text())
    assert told["errors"] == json.loads((folder / "errors.json").read_text())
    assert told["folder"] == str(folder) and told["in_force"] == "trials/lora/adapter"


def test_what_users_write_is_no_markup(dw, run, tmp_path):
    hostile = "[red]x[/] \x1b[2J \u202e"
    rows = [
        {"prompt": hostile, "completion": hostile, "label": False},
        {"prompt": "What colour is aster?", "completion": "red", "label": True},
    ]
    file = world.write_lines(tmp_path / "rated.jsonl", rows)
    said = dw("refine", run, "--strategy", "lora", "--data", file)
    assert said.code == 0, said.err
    assert "[red]x[/]" in said.out and "\\x1b[2J" in said.out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said.out)


def test_watch(dw, run, tmp_path):
    asked = [{"question": f"May the tenant of flat {n} end the lease?"} for n in range(12)]
    file = world.write_lines(tmp_path / "new.jsonl", asked)
    said = dw("refine", run, "--watch", file)
    assert said.code == 0 and said.out.startswith("The domain has moved: 12 new questions")
    assert "least like any known one: May the tenant" in said.out
    told = json.loads(dw("refine", run, "--watch", file, "--json").out)
    assert told["moved"] and {s["what"] for s in told["shifts"]} == {"vectors", "loss"}
    assert not (run / "refine").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--roll-back"], 2, "none was before it"),
        (["--roll-back", "--watch", "new.jsonl"], 2, "two different things"),
        (["--roll-back", "--resume"], 2, "--resume has no meaning with --roll-back"),
        (["--watch", "new.jsonl", "--steps", "3"], 2, "--steps has no meaning with --watch"),
        (["--watch", "none.jsonl"], 3, "none.jsonl"),
        (["--strategy", "zero_shot"], 2, "zero_shot has no adapter"),
        (["--strategy", "lora", "--data", "none.jsonl"], 3, "There is no file none.jsonl"),
        (["--strategy", "lora", "--augment", "edda"], 2, "eda"),
    ],
)
def test_wrong_use(dw, decided, arguments, code, said):
    found = dw("refine", decided, *arguments)
    assert found.code == code and said in found.err and "Traceback" not in found.err
    assert "\n  fix: " in found.err


def test_one_process_at_a_time(dw, decided):
    with lock(decided):
        said = dw("refine", decided, "--strategy", "lora")
    assert said.code == 2 and "Another process is working in" in said.err


def test_a_folder_of_nothing(dw, tmp_path):
    assert dw("refine", tmp_path).code == 3
    assert dw("refine", tmp_path, "--roll-back").code == 3
    assert not list(tmp_path.iterdir())


def test_interrupted_it_goes_on_to_the_same_adapter(run, tmp_path):
    """A process of its own, stopped in the middle of training."""
    default_encoder()  # once for all children
    whole = tmp_path / "whole"
    shutil.copytree(run, whole)
    asked = ["--strategy", "lora", "--steps", "40"]
    out, err = tmp_path / "out.txt", tmp_path / "err.txt"
    child = fork(["refine", run, *asked], out, err)
    for _ in range(3000):
        if err.exists() and "train lora  1/40" in err.read_text():
            break
        time.sleep(0.01)
    os.kill(child, signal.SIGINT)
    assert end(child) == 130
    assert err.read_text().endswith("interrupted. Run the command with --resume to go on.\n")
    assert (
        not (run / "champion.json").exists() and not (run / "refine/round-1/trial/adapter").exists()
    )
    assert end(fork(["refine", run, *asked, "--resume"], out, err)) == 0
    assert end(fork(["refine", whole, *asked], out, err)) == 0
    assert sha256_file(run / CHALLENGER) == sha256_file(whole / CHALLENGER)
