"""Replay and penalties in a study: planned, written once, and never of what is measured."""

import json

import pytest
import yaml

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import ConfigError, DataError
from domainwright.evaluate.retained import shipped_suite
from domainwright.studies.api import decide, load_run, plan, train_method
from domainwright.studies.study import read_study
from domainwright.train import replay as replays
from domainwright.train.regimes import ReplaySettings
from tests.studies.world import questions, read_lines, study_file, texts, write_lines


@pytest.mark.usefixtures("quick")
def test_a_study_whose_base_writes_its_own_replay(tmp_path, base, monkeypatch):
    asked = []
    plain = replays.answer
    monkeypatch.setattr(
        replays, "answer", lambda *a, **k: asked.append(len(a[1])) or plain(*a, **k)
    )
    train = {
        "replay": {"share": 0.3, "texts": 6, "new_tokens": 12, "learn": "tokens"},
        "penalties": {"kl": None, "l2_sp": {"weight": 0.1}},
        "neftune": 2.0,
        "average": 0.5,
    }
    file = study_file(
        tmp_path / "study", base, strategies=["zero_shot", "lora", "ia3"], train=train
    )
    found = plan(file)
    assert found.run_of("lora").fits and not asked  # nothing is written for a plan
    decided = decide(file, tmp_path / "run")
    assert asked[0] == 3 and len(asked) == 2  # questions, then all texts: once for both methods
    (said,) = (decided.folder / "lessons").iterdir()
    digest = read_manifest(said, "lessons")["hash"]
    for name in ("lora", "ia3"):
        lines = read_lines(decided.folder / "trials" / name / "metrics.jsonl")
        assert any("replay_loss" in x for x in lines) and all("kl" in x for x in lines[1:-1])
        assert lines[-1]["averaged"] == 3
        assert lines[-1].get("rejected", lines[-1])["general_kl"] > 0
        adapter = decided.folder / "trials" / name / "adapter"
        if adapter.exists():
            assert read_manifest(adapter)["parents"]["replay"] == digest
    settings = json.loads((decided.folder / "verdict.json").read_text())["study"]["train"]
    assert settings["penalties"] == {"kl": {"weight": 0.3}, "l2_sp": {"weight": 0.1}}
    assert read_study(decided.folder / "study.yaml").train == read_study(file).train
    again = decide(file, tmp_path / "run", resume=True)
    assert again.recommendation == decided.recommendation and len(asked) == 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("learn", ["tokens", "base"])
def test_what_is_measured_is_never_replayed(tmp_path, base, learn):
    measured = [{"id": f"m{n}", "text": t.text} for n, t in enumerate(shipped_suite().texts[:6])]
    train = {"replay": {"source": "general.jsonl", "share": 0.2, "learn": learn}}
    file = study_file(tmp_path / "study", base, train=train)
    source = write_lines(tmp_path / "study" / "general.jsonl", [*texts()[:8], *measured[:2]])
    assert read_study(file).train.replay.source == str(source)
    train_method(file, "lora", tmp_path / "run")
    aside = read_lines(tmp_path / "run" / "set_aside.jsonl")
    assert {"m0", "m1"} <= {x["id"] for x in aside}
    assert {x["reason"] for x in aside} == {"is_measured"}
    assert (tmp_path / "run" / "lessons").exists() is (learn == "base")
    write_lines(source, measured)
    with pytest.raises(DataError, match="6 of them texts or test rows that are measured"):
        train_method(file, "lora", tmp_path / "other")


@pytest.mark.usefixtures("quick")
def test_rows_of_the_test_are_never_replayed(tmp_path, base):
    train = {"replay": {"source": "general.jsonl", "share": 0.2}}
    file = study_file(tmp_path / "study", base, train=train)
    write_lines(tmp_path / "study" / "general.jsonl", questions())
    train_method(file, "lora", tmp_path / "run")
    aside = {x["id"] for x in read_lines(tmp_path / "run" / "set_aside.jsonl")}
    tested = {x["id"] for x in read_lines(tmp_path / "run" / "dataset" / "test.jsonl")}
    assert tested and tested <= aside


@pytest.mark.usefixtures("quick")
def test_texts_that_the_base_wrote_tell_which_weights_matter(tmp_path, base):
    """A share of 0: they are read for that alone."""
    train = {
        "replay": {"share": 0.0, "texts": 4, "new_tokens": 8},
        "penalties": {"ewc": {"weight": 3.0}},
    }
    file = study_file(tmp_path / "study", base, train=train)
    assert plan(file).run_of("lora").fits
    trained = train_method(file, "lora", tmp_path / "run")
    assert not any("replay_loss" in x for x in trained.history)
    assert trained.history[1]["ewc"] == 0 and trained.history[3]["ewc"] > 0
    kinds = [
        set(read_manifest(p, "lessons")["files"]) for p in (tmp_path / "run/lessons").iterdir()
    ]
    assert {"fisher.safetensors"} in kinds and {"replay.jsonl"} in kinds


@pytest.mark.usefixtures("quick")
def test_a_run_beside_an_earlier_one(tmp_path, base):
    """O-LoRA: paths are relative to the study file, and the manifest names the parent."""
    file = study_file(tmp_path / "study", base)
    train_method(file, "lora", tmp_path / "study" / "first")
    changes = ["methods.lora.past=[first]", "train.penalties.o_lora.weight=0.2"]
    (past,) = read_study(file, changes).methods["lora"]["past"]
    assert past == str(tmp_path / "study" / "first")
    assert read_study(file, ["methods.lora.past=first"]).methods["lora"]["past"] == [past]
    told = train_method(file, "lora", tmp_path / "second", overrides=changes)
    assert all(x["o_lora"] > 0 for x in told.history if "loss" in x)
    first, second = (
        read_manifest(p / "adapter") for p in (tmp_path / "study/first", tmp_path / "second")
    )
    assert second["parents"]["past 1"] == first["hash"]
    run = load_run(tmp_path / "second")
    ranks = [len(a) for a in run.adapter.A]
    assert ranks == [2 * len(a) for a in load_run(tmp_path / "study/first").adapter.A]
    assert isinstance(run.chat("What is it?", new_tokens=4), str)


def test_an_unknown_penalty_is_refused_with_the_nearest_name(tmp_path, base):
    file = study_file(tmp_path, base)
    with pytest.raises(LookupError, match="no penalty called 'l2'") as caught:
        read_study(file, ["train.penalties.l2.weight=1"])
    assert "l2_sp" in str(caught.value.fix)
    with pytest.raises(ConfigError, match="shares"):
        read_study(file, ["train.replay.shares=1"])
    read = read_study(file, ["train.replay.share=0.1", "train.penalties.kl.weight=1"])
    assert read.train.replay.share == 0.1 and read.train.penalties == {"kl": {"weight": 1.0}}


@pytest.mark.usefixtures("quick")
def test_replay_is_on_unless_it_is_turned_off(tmp_path, base):
    file = study_file(tmp_path, base, train={"replay": {}})
    assert read_study(file).train.replay == ReplaySettings()
    off = study_file(tmp_path, base, train={"replay": None})
    assert read_study(off).train.replay is None
    assert read_study(off, ["train.replay.share=0.1"]).train.replay.share == 0.1
    raw = yaml.safe_load(off.read_text())
    del raw["train"]["replay"]
    off.write_text(yaml.safe_dump(raw))
    assert read_study(off).train == read_study(file).train


@pytest.mark.usefixtures("quick")
def test_tasks_of_two_files_share_the_steps(tmp_path, base):
    tasks = {"weighting": "uncertainty", "conflicts": "pcgrad"}
    data = {"train": [{"path": "train.jsonl", "task": "plants"}, "more.jsonl"]}
    rows = questions()
    file = study_file(tmp_path / "study", base, rows[:40], train={"tasks": tasks}, data=data)
    write_lines(tmp_path / "study" / "more.jsonl", rows[40:])
    train_method(file, "lora", tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")[1:]
    seen = set().union(*(x["task_losses"] for x in lines if "task_losses" in x))
    assert seen == {"plants", "more"}
    weights = [x["task_weights"] for x in lines if "task_weights" in x]
    # Losses above one half: both count less and less.
    assert 0 < weights[-1]["more"] < 1 and any("conflicts" in x for x in lines)
    alone = study_file(tmp_path / "alone", base, train={"tasks": tasks})
    with pytest.raises(DataError, match="of one task, train"):
        train_method(alone, "lora", tmp_path / "other")
