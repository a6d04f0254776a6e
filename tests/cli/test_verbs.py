"""Every verb as users meet it: what it prints, where, and with which exit code."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from domainwright.cli import data as data_verb
from domainwright.cli.main import app
from domainwright.core.artifacts import write_json
from domainwright.methods import METHODS
from domainwright.models.flat import flatten
from domainwright.prompting import PROMPTINGS
from domainwright.studies._run import Reply
from domainwright.studies.api import load_run
from domainwright.studies.records import read_verdict
from tests.studies import world
from tests.studies.verdicts import verdict, with_hostile_text

pytestmark = pytest.mark.usefixtures("quick")
VERBS = [
    ["decide"], ["plan"], ["train"], ["rate"], ["evaluate"], ["chat"], ["refine"],
    ["report"], ["combine"], ["export"], ["trace"],
    ["data"], ["data", "show"], ["data", "labels"], ["data", "terms"],
    ["methods"], ["domains"], ["doctor"], [],
]  # fmt: skip
HOSTILE = "[bold]x[/] [/red] :smile: 😀 \x1b[2J\x1b]0;title\x07 \x9b31m \r \u202e[link=http://x]y"


@pytest.fixture(scope="module")
def study(tmp_path_factory, base):
    """A study file with documents and every kind of strategy."""
    folder = tmp_path_factory.mktemp("study")
    world.write_lines(folder / "documents.jsonl", world.documents())
    return world.study_file(
        folder,
        base,
        data={"documents": "documents.jsonl"},
        strategies=["zero_shot", "lora", "lora+rag"],
    )


@pytest.fixture
def run(request, study, dw, tmp_path_factory):
    """A finished study, decided once per module through the command line."""
    module = request.module
    if not hasattr(module, "_run"):
        folder = tmp_path_factory.mktemp("runs") / "plants"
        module._said = dw("decide", study, "-o", folder)
        module._run = folder
    return module._run


def clean(text):
    """Whether the terminal would obey nothing in it."""
    return not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_the_version_is_told(dw):
    said = dw("--version")
    assert (said.code, said.out, said.err) == (0, f"domainwright {version('domainwright')}\n", "")
    module = [sys.executable, "-m", "domainwright", "--version"]
    assert subprocess.run(module, capture_output=True, text=True, check=True).stdout == said.out


@pytest.mark.parametrize("verb", VERBS, ids=lambda v: " ".join(v) or "dw")
def test_help_fits_a_screen_and_names_every_option(dw, verb):
    said = dw(*verb, "--help")
    assert said.code == 0 and said.err == ""
    lines = said.out.rstrip("\n").split("\n")
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert "..." not in said.out.partition("Commands:")[2]
    from typer.main import get_command

    command = get_command(app)
    for name in verb:
        command = command.commands[name]
    for parameter in command.params:
        # What everyone tries without being told needs no line of the screen.
        assert "--version" in parameter.opts or any(x in said.out for x in parameter.opts)
    for name in getattr(command, "commands", ()):
        assert re.search(rf"^  {name} +\w", said.out, re.MULTILINE)


@pytest.mark.parametrize("verb", [v for v in VERBS if len(v) < 2], ids=lambda v: " ".join(v))
@pytest.mark.parametrize("wrong", ["--nonsense", None])
def test_wrong_use_ends_in_2_and_points_to_help(dw, verb, wrong):
    said = dw(*verb, *([wrong] if wrong else []))
    if not wrong and verb in (["methods"], ["domains"], ["doctor"]):
        return
    assert said.code == 2
    assert "Usage: dw" in said.err + said.out and "Traceback" not in said.err


def test_an_unknown_verb(dw):
    said = dw("decid")
    assert said.code == 2 and "No such command 'decid'" in said.err


def test_decide_prints_the_verdict(run):
    said = globals()["_said"]
    assert said.code == 0
    assert "zero_shot" in said.out and "6 test items in" in said.out
    assert "report   " in said.out and f"dw chat {run}" in said.out
    assert re.search(r"^read data  0/1$", said.err, re.MULTILINE)
    assert re.search(r"^train lora  6/6  loss \d", said.err, re.MULTILINE)
    assert re.search(r"^strategies  3/3  lora\+rag token F1 \d", said.err, re.MULTILINE)
    assert clean(said.out) and clean(said.err)


def test_decide_json_is_the_verdict(dw, study, tmp_path):
    said = dw("decide", study, "-o", tmp_path / "run", "--json", "--set", "strategies=[zero_shot]")
    assert said.code == 0
    assert json.loads(said.out) == json.loads((tmp_path / "run/verdict.json").read_text())


def test_shorthands_of_decide_are_settings(dw, study, tmp_path):
    done = dw(
        *("decide", study, "-o", tmp_path / "run", "--set", "strategies=[zero_shot]", "--json"),
        *("--minutes", 7, "--max-forgetting", 0.25),
    )
    asked = json.loads(done.out)["study"]
    assert asked["budget"]["minutes"] == 7 and asked["evaluate"]["max_forgetting"] == 0.25
    refused = dw("decide", study, "--max-forgetting", -1)
    assert refused.code == 2 and "evaluate.max_forgetting is -1" in refused.err


def test_report_shows_again_and_writes_the_page(dw, run):
    page = run / "report.html"
    before = page.read_bytes()
    said = dw("report", run)
    assert said.code == 0 and said.err == ""
    assert said.out == globals()["_said"].out
    assert page.read_bytes() == before
    asked = dw("report", run, "--json")
    assert asked.code == 0 and json.loads(asked.out)["name"] == study_name(run)


def study_name(run):
    return read_verdict(run / "verdict.json").name


def test_report_of_nothing(dw, tmp_path):
    said = dw("report", tmp_path)
    assert said.code == 3 and "holds no verdict.json" in said.err


def test_trace_names_every_parent(dw, run):
    said = dw("trace", run)
    assert said.code == 0
    for name in ("verdict", "dataset", "lora+rag", "adapter", "train.jsonl", "zero_shot"):
        assert name in said.out
    tree = json.loads(dw("trace", run / "trials/lora/adapter", "--json").out)
    assert tree["name"] == "adapter"
    assert {p["name"] for p in tree["parents"]} == {"dataset", "base", "run"}
    dataset = next(p for p in tree["parents"] if p["name"] == "dataset")
    assert [p["name"].rsplit("/")[-1] for p in dataset["parents"]] == ["train.jsonl"]


def test_trace_sees_altered_files(dw, run, tmp_path):
    copy = tmp_path / "adapter"
    shutil.copytree(run / "trials/lora/adapter", copy)
    with (copy / "adapter_config.json").open("a") as file:
        file.write(" ")
    said = dw("trace", copy)
    assert said.code == 3 and "was altered after it was written" in said.err
    assert dw("trace", tmp_path).code == 3


def test_chat_once(dw, run):
    said = dw("chat", run, "-q", "What colour is fern?", "--strategy", "lora", "--new-tokens", "4")
    assert said.code == 0 and "base" in said.out and "lora" in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_chat_reads_lines(dw, run, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("What colour is fern?\n\n  \nAnd oak?\n"))
    arguments = ("--strategy", "lora+rag", "--new-tokens", "4", "--json")
    said = dw("chat", run, *arguments)
    answers = [json.loads(line) for line in said.out.splitlines()]
    assert said.code == 0 and [a["question"] for a in answers] == [
        "What colour is fern?",
        "And oak?",
    ]
    assert {a["strategy"] for a in answers} == {"lora+rag"}
    assert len(answers[0]["passages"]) == 3 and isinstance(answers[0]["base"], str)


def test_chat_takes_bytes_that_are_no_text(dw, run, monkeypatch):
    import io

    stream = io.TextIOWrapper(io.BytesIO(b"a\xff b\nok\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", stream)
    said = dw("chat", run, "--new-tokens", "2", "--json")
    assert said.code == 0
    assert [json.loads(x)["question"] for x in said.out.splitlines()] == ["a? b", "ok"]
    assert dw("chat", run, "-q", "a\udcff", "--new-tokens", "2").code == 0


def test_chat_with_a_strategy_that_was_not_measured(dw, run):
    said = dw("chat", run, "-q", "x", "--strategy", "lora+rags")
    assert said.code == 2 and "measured no strategy called 'lora+rags'" in said.err
    assert "fix: use 'lora+rag'." in said.err
    said = dw("chat", run, "-q", "x", "--strategy", "prefix")
    assert "fix: use one of: zero_shot, lora, lora+rag." in said.err


def test_chat_without_a_run(dw, tmp_path):
    said = dw("chat", tmp_path, "-q", "x")
    assert said.code == 3 and "holds no finished study and no run" in said.err


def test_chat_with_a_question_too_long(dw, run):
    said = dw("chat", run, "-q", "word " * 3000)
    assert said.code == 3 and "tokens; " in said.err and "start a new conversation" in said.err


@pytest.mark.parametrize("width", [30, 40, 59, 80, 200])
def test_answers_are_no_markup_and_fit(dw, run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(
        "domainwright.studies.api.Run.reply",
        lambda self, question, **how: Reply(HOSTILE + question, (HOSTILE,), "adapter"),
    )
    monkeypatch.setenv("COLUMNS", str(width))
    said = dw("chat", run, "-q", "[/red]")
    assert said.code == 0 and clean(said.out)
    assert "[bold]" in said.out and "😀" in said.out and ":smile:" in said.out


@pytest.mark.parametrize("width", [40, 80])
def test_answers_without_spaces_are_shown_whole(dw, run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    long = "".join(chr(0x4E00 + n) for n in range(150))
    monkeypatch.setattr(
        "domainwright.studies.api.Run.reply",
        lambda self, question, **how: Reply(long, (), "adapter"),
    )
    said = dw("chat", run, "-q", "x")
    assert all(said.out.count(letter) == 1 for letter in long)  # the base is recommended
    said = dw("chat", run, "-q", "x", "--strategy", "lora")
    assert all(said.out.count(letter) == 2 for letter in long)


def evaluated(dw, *arguments):
    said = dw("evaluate", *arguments, "--json")
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_evaluate_a_base_and_a_run(dw, study, run, base):
    file = study.parent / "train.jsonl"
    plain = evaluated(dw, base, "--data", file, "-n", "3", "--new-tokens", "3")
    assert (plain["items"], plain["strategy"], plain["score"]) == (3, "base", "token_f1")
    tuned = evaluated(dw, run, "--data", file, "-n", "3", "--new-tokens", "3")
    assert tuned["strategy"] == read_verdict(run / "verdict.json").recommendation.strategy
    said = dw("evaluate", base, "--data", file, "-n", "2", "--new-tokens", "3")
    assert said.code == 0 and re.match(r"token F1 \d\.\d+ \[\d\.\d+, ", said.out)


def test_evaluate_other_kinds_of_rows(dw, base, tmp_path):
    quiz = world.write_lines(tmp_path / "quiz.jsonl", world.choices())
    assert evaluated(dw, base, "--data", quiz, "-n", "4")["score"] == "accuracy_norm"
    plain = world.write_lines(tmp_path / "plain.jsonl", world.texts())
    assert evaluated(dw, base, "--data", plain, "-n", "4")["score"] == "negative_bits_per_byte"
    said = dw("evaluate", base, "--data", plain, "-n", "4")
    assert re.match(r"bits per byte \d+\.\d+ \[", said.out), "lower is better: no minus sign"


def test_evaluate_refuses(dw, base, tmp_path, study):
    file = study.parent / "train.jsonl"
    assert dw("evaluate", base, "--data", file, "-n", "0").code == 2
    assert dw("evaluate", "no/such/base", "--data", file).code == 2
    assert dw("evaluate", base, "--data", tmp_path / "none.jsonl").code == 3
    assert dw("evaluate", tmp_path, "--data", file).code == 3
    # A hub id that is not here, with no network: this machine lacks it.
    assert dw("evaluate", "someone/some-model", "--data", file).code == 4


IDS = [[5, 9, 200, 31, 7, 12, 40, 41]]


def adapted_logits(run):
    loaded = load_run(run, "lora")
    flat = flatten(IDS, loaded.base.device)
    with loaded.adapter.attached():
        return loaded.base.logits(flat, torch.arange(flat.tokens))


def test_export_merged_is_a_plain_model(dw, run, study, tmp_path):
    said = dw("export", run, "-o", tmp_path / "merged")
    assert (said.code, said.out) == (0, f"merged  {tmp_path / 'merged'}\n")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    got = plain(torch.tensor(IDS)).logits[0]
    torch.testing.assert_close(got, adapted_logits(run), rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    # What was exported is a base like any other, for this program too.
    file = study.parent / "train.jsonl"
    assert evaluated(dw, tmp_path / "merged", "--data", file, "-n", "2", "--new-tokens", "2")


def test_export_peft_is_an_adapter(dw, run, base, tmp_path):
    from peft import PeftModel

    said = dw("export", run, "-o", tmp_path / "peft", "--to", "peft", "--json")
    assert json.loads(said.out) == {"folder": str(tmp_path / "peft"), "form": "peft"}
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    got = PeftModel.from_pretrained(plain, tmp_path / "peft")(torch.tensor(IDS)).logits[0]
    torch.testing.assert_close(got, adapted_logits(run), rtol=1e-4, atol=1e-4)


def test_export_refuses(dw, run, tmp_path):
    (tmp_path / "file").write_text("")
    said = dw("export", run, "-o", tmp_path / "x", "--to", "gguff")
    assert said.code == 2 and "use one of: merged, peft" in said.err
    said = dw("export", run, "-o", tmp_path / "x", "--merge", "original16")
    assert said.code == 2 and "one of qlora's" in said.err
    assert "is not empty" in dw("export", run, "-o", tmp_path).err
    assert "is a file" in dw("export", run, "-o", tmp_path / "file").err
    (tmp_path / "empty").mkdir()
    assert dw("export", tmp_path / "empty", "-o", tmp_path / "y").code == 3


def test_methods_and_domains(dw):
    listed = json.loads(dw("methods", "--json").out)
    assert [x["name"] for x in listed] == [*PROMPTINGS.names(), *METHODS.names()]
    said = dw("methods")
    assert all(re.search(rf"^{x['name']} ", said.out, re.MULTILINE) for x in listed)
    domains = json.loads(dw("domains", "--json").out)
    assert {"medical", "legal"} <= {d["name"] for d in domains}
    assert "not for: " in dw("domains").out


def test_doctor(dw, monkeypatch):
    from domainwright.studies.doctor import Finding

    found = [Finding("torch", True, "2"), Finding("gpu", False, "none", "buy one", needed=False)]
    monkeypatch.setattr("domainwright.studies.doctor.examine", lambda: found)
    said = dw("doctor", "--json")
    assert said.code == 0 and [f["ok"] for f in json.loads(said.out)] == [True, False]
    assert "fix: buy one" in dw("doctor").out
    found.append(Finding("memory", False, "1 GB", "more"))
    assert dw("doctor").code == 4


def test_doctor_for_real(dw):
    said = dw("doctor", "--json")
    assert {"torch", "memory"} <= {f["name"] for f in json.loads(said.out)}


def test_train_prints_figures(dw, study, tmp_path):
    said = dw("train", study, "--method", "lora", "-o", tmp_path / "run")
    assert said.code == 0 and "development loss " in said.out and "adapter  " in said.out
    again = dw("train", study, "--method", "lora", "-o", tmp_path / "run", "--resume", "--json")
    assert json.loads(again.out)["steps"] == 6
    said = dw("chat", tmp_path / "run", "-q", "x", "--new-tokens", "2", "--json")
    assert said.code == 0 and json.loads(said.out)["strategy"] == "adapter"
    assert dw("export", tmp_path / "run", "-o", tmp_path / "m").code == 0


def test_rate_says_where_to_begin(dw, study):
    said = dw("rate", study, "--method", "lora", "--steps", "30", "--low", "1e-4", "--high", "10")
    assert said.code == 0 and "falls fastest" in said.out
    assert "Begin with train.learning_rate" in said.out
    wrong = dw("rate", study, "--method", "lora", "--low", "1", "--high", "0.1")
    assert wrong.code == 2 and "--low below --high" in wrong.err


def test_train_an_unknown_method(dw, study, tmp_path):
    said = dw("train", study, "--method", "lorra", "-o", tmp_path / "run")
    assert said.code == 2 and "fix: use 'lora'." in said.err
    assert not (tmp_path / "run").exists()


def test_train_that_learns_nothing_ends_in_5(dw, study, tmp_path):
    settings = ("--set", "train.learning_rate=5.0", "--set", "train.max_forgetting=0")
    said = dw("train", study, "--method", "lora", "-o", tmp_path / "run", *settings)
    assert said.code == 5 and "  fix: lower train.learning_rate" in said.err


def test_a_full_disk_is_two_lines_and_4(dw, study, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "/data/x")

    monkeypatch.setattr("domainwright.studies.decide.write_resolved", full)
    said = dw("decide", study, "-o", tmp_path / "run")
    assert said.code == 4
    assert said.err.startswith("error: No space left on device: /data/x.\n  fix: free space")


def test_an_error_spells_out_control_characters(dw, tmp_path, base):
    rows = [{"colour\x1b[31m[/red]": "x"}]
    study = world.study_file(tmp_path, base, rows)
    said = dw("decide", study, "-o", tmp_path / "run")
    assert said.code == 3 and clean(said.err) and "colour" in said.err and "[/red]" in said.err


DATA = {
    "chat": world.questions(),
    "choice": world.choices(),
    "text": world.texts(),
    "preference": [{"prompt": "Who?", "chosen": "fern it is", "rejected": "no"}],
    "rated": [{"prompt": "Who?", "completion": "fern it is", "label": True}],
    "messages": [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Who?"},
                {"role": "assistant", "content": "fern"},
                {"role": "user", "content": "Where?"},
                {"role": "assistant", "content": "there"},
            ]
        }
    ],
}


@pytest.mark.parametrize("kind", DATA)
def test_data_show_colours_the_supervised_tokens(dw, base, tmp_path, monkeypatch, kind):
    file = world.write_lines(tmp_path / "a.jsonl", [*DATA[kind], {"nothing": 1}])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    said = dw("data", "show", file, "--base", base, "-n", "1")
    assert said.code == 0
    assert f"{len(DATA[kind]) + 1} records = {len(DATA[kind])} rows + 1 set aside" in said.out
    assert re.search(r"  1 \w+, first in line \d+: ", said.out)
    on = "".join(re.findall(r"\x1b\[30;42m(.*?)\x1b\[0m", said.out, re.DOTALL))
    shown = json.loads(dw("data", "show", file, "--base", base, "-n", "1", "--json").out)
    first = shown["rows"][0]
    marked = "".join(t for t, m in zip(first["tokens"], first["supervised"], strict=True) if m)
    squeezed = re.sub(r"\s", "", on)
    assert squeezed == re.sub(r"\s", "", marked) + "supervised"
    assert shown["kept"] == len(DATA[kind]) and len(shown["set_aside"]) == 1


@pytest.mark.parametrize("width", [20, 40, 80])
def test_data_is_no_markup(dw, base, tmp_path, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [
        {"id": f"[/red]{HOSTILE}", "question": HOSTILE, "answer": HOSTILE + " yes"},
        {"id": "2", "question": "", "answer": HOSTILE},
    ]
    file = world.write_lines(tmp_path / "[red]a[b].jsonl", rows)
    said = dw("data", "show", file, "--base", base)
    assert said.code == 0 and clean(said.out)
    joined = said.out.replace("\n", "")
    assert "[bold]x[/]" in joined and "[/red]" in joined and ":smile:" in joined


def test_data_show_of_documents_and_no_rows(dw, base, tmp_path):
    file = world.write_lines(tmp_path / "d.jsonl", world.documents())
    said = dw("data", "show", file, "--base", base, "--format", "document")
    assert said.code == 0 and "20 records = 20 rows" in said.out
    assert "supervised" not in dw("data", "show", file, "--base", base, "-n", "0").out


def test_data_show_refuses(dw, base, tmp_path):
    file = world.write_lines(tmp_path / "a.jsonl", world.questions())
    assert dw("data", "show", file, "--base", base, "-n", "-1").code == 2
    said = dw("data", "show", file, "--base", base, "--column", "question")
    assert said.code == 2 and "write --column ROLE=COLUMN" in said.err
    assert dw("data", "show", file, "--base", base, "--format", "chats").code in (2, 3)
    assert dw("data", "show", file, "--base", tmp_path).code == 3
    assert dw("data", "show", tmp_path / "b.jsonl", "--base", base).code == 3


@pytest.mark.parametrize("width", [20, 40, 80, 250])
def test_the_verdict_is_no_markup_at_any_width(dw, tmp_path, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    plain = verdict()
    given = with_hostile_text(plain, HOSTILE)
    # Names are file names of the house; whatever else a verdict says may be anyone's.
    results = [
        replace(hostile, name=f"{own.name}[/red]")
        for hostile, own in zip(given.strategies, plain.strategies, strict=True)
    ]
    advice = replace(given.recommendation, strategy="lora[/red]")
    given = replace(given, strategies=results, recommendation=advice)
    folder = tmp_path / "[red]run"
    folder.mkdir()
    write_json(folder / "verdict.json", given.as_json())
    said = dw("report", folder)
    assert said.code == 0, said.err
    assert clean(said.out)
    assert "[/red]" in said.out.replace("\n", "") and "[red]run" in said.out
    assert "'" in said.out.splitlines()[-1]  # the path is quoted for the shell


def test_colours_go_away_in_a_pipe(dw, run):
    assert "\x1b" not in dw("report", run).out


def test_the_data_verb_prints_a_look_only():
    with pytest.raises(AssertionError):
        data_verb._print(Console())
