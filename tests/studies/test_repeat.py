"""The same study twice, interrupted, resumed, refused: the same verdict or a clear word."""

import os
import signal
import time

import pytest
from safetensors.torch import load_file

from domainwright.core.artifacts import sha256_file
from domainwright.core.errors import ConfigError
from domainwright.core.lock import lock
from domainwright.studies.api import decide, train_method
from domainwright.studies.records import read_verdict
from tests.studies import world

pytestmark = pytest.mark.usefixtures("quick")
STRATEGIES = ["zero_shot", "lora", "lora+few_shot"]
MEASURED = ("id", "reply", "mark", "metrics", "loss", "loss_tokens", "tokens_in", "tokens_out")


def outcome(folder):
    """All that must repeat: adapter, every item of every scorecard, what was retained, advice."""
    found = {"adapter": sha256_file(folder / "trials/lora/adapter/adapter_model.safetensors")}
    for path in sorted((folder / "trials").rglob("*.jsonl")):
        if path.parent.name in ("scorecard", "retention"):
            rows = world.read_lines(path)
            key = path.relative_to(folder).as_posix()
            found[key] = [{name: row[name] for name in MEASURED} for row in rows]
    verdict = read_verdict(folder / "verdict.json")
    found["scores"] = [(r.name, r.status, r.score, r.difference) for r in verdict.strategies]
    found["advice"] = verdict.recommendation
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory, base):
    return world.study_file(tmp_path_factory.mktemp("study"), base, strategies=STRATEGIES)


@pytest.fixture
def whole(study, tmp_path_factory, request):
    """What an undisturbed run ends with, measured once."""
    module = request.module
    if not hasattr(module, "_whole"):
        folder = tmp_path_factory.mktemp("whole") / "run"
        decide(study, folder)
        module._whole = outcome(folder)
    return module._whole


def test_one_seed_one_outcome_and_another_seed_another(study, whole, tmp_path):
    decide(study, tmp_path / "again")
    assert outcome(tmp_path / "again") == whole
    decide(study, tmp_path / "other", overrides=["seed=1"])
    other = outcome(tmp_path / "other")
    assert other["adapter"] != whole["adapter"]
    card = "trials/lora/scorecard/items.jsonl"
    assert [x["id"] for x in other[card]] != [x["id"] for x in whole[card]]


STAGES = [
    ("probe", 0),
    ("retention base: choices", 1),
    ("zero_shot", 1),
    ("train lora", 1),
    ("train lora", 3),
    ("train lora", 6),
    ("retention lora: text", 1),
    ("strategies", 3),
]


@pytest.mark.parametrize(("stage", "done"), STAGES)
def test_an_interrupted_study_ends_as_if_it_had_not_been(study, whole, tmp_path, stage, done):
    folder, seen = tmp_path / "run", []

    def interrupt(step):
        seen.append(step.stage)
        if step.stage == stage and step.done >= done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide(study, folder, listen=interrupt)
    assert not (folder / "manifest.json").exists()
    decide(study, folder, resume=True)
    assert outcome(folder) == whole
    assert not [p for p in folder.rglob(".*") if p.name != ".lock"]


def test_stopped_on_request_after_a_checkpoint(study, whole, tmp_path):
    folder, steps = tmp_path / "run", []
    with pytest.raises(KeyboardInterrupt):
        decide(study, folder, listen=steps.append, stop=lambda: steps[-1].done == 3)
    assert sorted(p.name for p in (folder / "trials/lora/checkpoints").iterdir()) == [
        "step-0000002",
        "step-0000003",
    ]
    decide(study, folder, resume=True)
    assert outcome(folder) == whole


def test_killed_at_any_moment(study, whole, tmp_path):
    """Real SIGKILLs of forked children; how far each came does not matter."""
    folder = tmp_path / "run"
    for number, delay in enumerate((0.1, 0.25, 0.4, 0.55, 0.7, 0.9)):
        child = os.fork()
        if child == 0:
            try:
                decide(study, folder, resume=number > 0)
            finally:
                os._exit(0)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    decide(study, folder, resume=True)
    assert outcome(folder) == whole


def test_resuming_a_finished_study_repeats_nothing(study, whole, tmp_path):
    decide(study, tmp_path / "run")
    stages = []
    decide(study, tmp_path / "run", resume=True, listen=lambda step: stages.append(step.stage))
    assert not {"zero_shot", "lora", "train lora"} & set(stages)
    assert outcome(tmp_path / "run") == whole


def test_a_used_folder_needs_a_word(study, tmp_path):
    folder = tmp_path / "run"
    decide(study, folder)
    with pytest.raises(ConfigError, match="holds a finished study") as caught:
        decide(study, folder)
    assert "--resume" in caught.value.fix and "--fresh" in caught.value.fix
    (folder / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="holds an unfinished study"):
        decide(study, folder)
    with pytest.raises(ConfigError, match="give one of the two"):
        decide(study, folder, resume=True, fresh=True)


def test_fresh_deletes_the_study_and_nothing_else(study, tmp_path):
    folder = tmp_path / "run"
    decide(study, folder)
    old = (folder / "manifest.json").read_text()
    (folder / "notes.txt").write_text("mine")
    (folder / "trials" / "left").mkdir()
    decide(study, folder, fresh=True)
    assert (folder / "manifest.json").read_text() != old
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "trials" / "left").exists()


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["study.yaml", "dataset/rows.csv", "trials/a.txt"])
def test_a_folder_of_someone_else_is_never_overwritten(study, tmp_path, name, fresh):
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("base: mine\n")
    with pytest.raises(ConfigError, match="was not made by Domainwright") as caught:
        decide(study, tmp_path / "mine", fresh=fresh)
    assert caught.value.fix == "give an empty or new folder with -o."
    assert file.read_text() == "base: mine\n"
    assert [p.name for p in (tmp_path / "mine").iterdir()] == [name.split("/")[0]]


def test_fresh_refuses_a_folder_without_a_study(study, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="is no study folder: it holds thesis") as caught:
        decide(study, tmp_path, fresh=True)
    assert "check the path" in caught.value.fix
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_fresh_on_a_new_folder_is_fine(study, tmp_path):
    assert decide(study, tmp_path / "new", fresh=True).verdict.name


@pytest.mark.parametrize(
    "run", [decide, lambda s, f: train_method(s, "lora", f)], ids=["decide", "train"]
)
def test_folders_that_cannot_be_used(study, tmp_path, run):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        run(study, tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        run(study, tmp_path / "file" / "below")


def test_a_folder_that_is_read_only(study, tmp_path, monkeypatch):
    # Root may write everywhere, so the system's answer is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="cannot be written to") as caught:
        decide(study, tmp_path / "run")
    assert "-o" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.steps=7", "train.steps = 6, and it is 7 now"),
        ("methods.lora={rank: 4}", "methods.lora.rank = None, and it is 4 now"),
        ("strategies=[lora]", "strategies = ['zero_shot', "),
        ("seed=3", "seed = 0, and it is 3 now"),
        ("evaluate.items=5", "evaluate.items = 6, and it is 5 now"),
    ],
)
def test_a_changed_study_is_not_resumed(study, tmp_path, change, said):
    folder = tmp_path / "run"

    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide(study, folder, listen=stop)
    before = (folder / "study.yaml").read_text()
    with pytest.raises(ConfigError) as caught:
        decide(study, folder, resume=True, overrides=[change])
    assert said in caught.value.cause
    assert "--fresh" in caught.value.fix
    assert (folder / "study.yaml").read_text() == before


def test_what_changes_memory_alone_may_change(study, whole, tmp_path):
    folder = tmp_path / "run"

    def stop(step):
        if step.stage == "train lora" and step.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide(study, folder, listen=stop)
    changes = ["budget.memory_gb=2", "train.micro_tokens=64", "train.checkpoint_every=1"]
    decide(study, folder, resume=True, overrides=changes)
    verdict = read_verdict(folder / "verdict.json")
    assert [r.status for r in verdict.strategies] == ["done"] * 3


def test_two_processes_in_one_folder(study, tmp_path):
    with lock(tmp_path / "run"), pytest.raises(ConfigError, match="Another process") as caught:
        decide(study, tmp_path / "run")
    assert "-o" in caught.value.fix


def test_train_writes_an_adapter_and_resumes(study, tmp_path):
    folder = tmp_path / "run"
    figures = train_method(study, "lora", folder)
    assert figures.steps == 6 and (folder / "adapter" / "manifest.json").exists()
    with pytest.raises(ConfigError, match="holds a run"):
        train_method(study, "lora", folder)
    before = load_file(folder / "adapter" / "adapter_model.safetensors")
    train_method(study, "lora", folder, resume=True)
    after = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert all((before[k] == after[k]).all() for k in before) and before.keys() == after.keys()


def test_train_leaves_a_study_alone(study, tmp_path):
    decide(study, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a study"):
        train_method(study, "lora", tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a study"):
        train_method(study, "lora", tmp_path / "run", resume=True)
