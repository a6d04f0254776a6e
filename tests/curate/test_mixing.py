"""Shares by their formulas, and a study that mixes its tasks."""

import json
from collections import Counter

import pytest

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.progress import quiet
from domainwright.curate.mixing import MixSettings, shares
from domainwright.studies.api import wanted_of
from domainwright.studies.data import prepare
from domainwright.studies.study import read_study
from domainwright.studies.tune import begin
from tests.studies import world

SIZES = {"notes": 1000, "laws": 100, "tables": 10}


def near(found, want):
    assert found == pytest.approx(dict(zip(SIZES, want, strict=True)))
    assert sum(found.values()) == pytest.approx(1)


def test_the_formulas():
    near(shares(SIZES, MixSettings()), [1000 / 1110, 100 / 1110, 10 / 1110])
    near(shares(SIZES, MixSettings(cap=100)), [100 / 210, 100 / 210, 10 / 210])
    roots = [1000**0.5, 10.0, 10**0.5]
    near(shares(SIZES, MixSettings(kind="temperature")), [r / sum(roots) for r in roots])
    near(shares(SIZES, MixSettings(kind="temperature", temperature=1e9)), [1 / 3] * 3)
    near(shares(SIZES, MixSettings(kind="uniform")), [1 / 3] * 3)
    fixed = MixSettings(kind="fixed", weights={"tables": 1, "notes": 2, "laws": 1})
    near(shares(SIZES, fixed), [0.5, 0.25, 0.25])


def test_wrong_settings_say_what_to_type():
    for settings, told in (
        ({"cap": 0}, r"mix\.cap is 0"),
        ({"temperature": 0.5}, "kind: uniform"),
        ({"kind": "fixed"}, "kind: fixed"),
        ({"weights": {"a": 1}}, "leave `weights` out"),
        ({"kind": "fixed", "weights": {"a": 0}}, "gives a 0"),
    ):
        with pytest.raises(ConfigError, match=told):
            MixSettings(**settings)
    with pytest.raises(ConfigError, match="the files' tasks are laws, notes, tables"):
        shares(SIZES, MixSettings(kind="fixed", weights={"notes": 1}))


def prepared(folder, entries, **data):
    rows = world.questions()
    study = world.study_file(folder, folder, rows[:45], data={**data, "train": entries})
    world.write_lines(folder / "more.jsonl", rows[45:])
    return prepare(read_study(study), folder / "run")


def test_a_study_mixes_its_training_rows(tmp_path):
    entries = [{"path": "train.jsonl", "task": "plants"}, "more.jsonl"]
    plain = prepared(tmp_path / "plain", entries)
    mixed = prepared(tmp_path / "mixed", entries, mix={"kind": "uniform"})
    assert [r.id for r in mixed.lessons.train] == [r.id for r in plain.lessons.train]
    assert plain.shares is None
    assert mixed.shares == {"plants": 0.5, "more": 0.5}
    assert mixed.notes[0].startswith("An epoch reads") and "plants" in mixed.notes[0]
    with pytest.raises(ConfigError, match=r"more, plants"):
        prepared(tmp_path / "bad", entries, mix={"kind": "fixed", "weights": {"plants": 1}})


def test_every_step_of_a_run_holds_the_shares(tmp_path):
    rows = world.questions()
    entries = [{"path": "train.jsonl", "task": "plants"}, "more.jsonl"]
    file = world.study_file(
        tmp_path,
        world.save_base(tmp_path / "base"),
        rows[:45],
        data={"train": entries, "mix": {"kind": "uniform"}},
    )
    world.write_lines(tmp_path / "more.jsonl", rows[45:])
    wanted = wanted_of(read_study(file), "lora", tmp_path / "run", quiet)
    job = begin(wanted, False, quiet).job
    for number in range(20):
        tasks = Counter(row.task for row in job.order.step(number))
        assert abs(tasks["plants"] - job.settings.batch / 2) < 2
    chosen = json.loads((tmp_path / "run" / "chosen.json").read_text())
    assert chosen["shares"] == wanted.shares


def test_one_task_cannot_be_mixed(tmp_path):
    with pytest.raises(DataError, match=r"one task, train"):
        prepared(tmp_path, "train.jsonl", mix={"kind": "uniform"})
