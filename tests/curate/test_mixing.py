"""Shares by their formulas, whole counts that add up, an order that is never a row off."""

import random
from collections import Counter
from fractions import Fraction

import pytest

from domainwright.core.errors import ConfigError, DataError
from domainwright.curate.mixing import MixSettings, epoch, interleaved, quotas, shares
from domainwright.studies.data import prepare
from domainwright.studies.study import read_study
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


def test_quotas_are_the_largest_remainders():
    assert quotas({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 4) == {"a": 2, "b": 1, "c": 1}
    draw = random.Random(0)
    for _ in range(200):
        raw = [draw.random() for _ in range(draw.randint(1, 6))]
        share = {str(n): x / sum(raw) for n, x in enumerate(raw)}
        total = draw.randint(0, 50)
        found = quotas(share, total)
        assert sum(found.values()) == total
        assert all(abs(found[task] - share[task] * total) < 1 for task in share)
        lost = [share[t] * total - found[t] for t in share if found[t] < share[t] * total]
        won = [share[t] * total % 1 for t in share if found[t] > share[t] * total + 1e-9]
        assert not lost or not won or max(lost) <= min(won) + 1e-9


def test_no_task_is_ever_a_row_off():
    draw = random.Random(1)
    for _ in range(300):
        counts = {str(n): draw.randint(0, 30) for n in range(draw.randint(1, 6))}
        total = sum(counts.values())
        order = interleaved(counts)
        assert Counter(order) == Counter({t: n for t, n in counts.items() if n})
        given = dict.fromkeys(counts, 0)
        for place, task in enumerate(order, 1):
            given[task] += 1
            for t, n in counts.items():
                assert abs(given[t] - Fraction(n * place, total)) < 1


def test_an_epoch_repeats_the_small_and_goes_on_with_the_large():
    tasks = ["large"] * 30 + ["small"] * 3
    mix = MixSettings(kind="uniform")
    first, second = (epoch(tasks, mix, seed=0, number=n, total=20) for n in (0, 1))
    assert first == epoch(tasks, mix, seed=0, total=20) != epoch(tasks, mix, seed=1, total=20)
    for rows in (first, second):
        assert Counter(tasks[row] for row in rows) == {"large": 10, "small": 10}
        small = Counter(row for row in rows if row >= 30)
        assert max(small.values()) - min(small.values()) <= 1
    large = [row for row in first + second if row < 30]
    assert len(set(large)) == 20, "no large row twice before all were read"
    assert len(epoch(tasks, mix, seed=0)) == 33


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
    assert len(mixed.split.train) == len(plain.split.train) and plain.lessons is plain.split
    rows = mixed.lessons.train
    assert len(rows) == len(plain.split.train)
    counts = Counter(row.file.rpartition("/")[2] for row in rows)
    assert abs(counts["train.jsonl"] - counts["more.jsonl"]) <= 1
    assert {row.id for row in rows} <= {row.id for row in plain.split.train}
    assert mixed.notes[0].startswith("An epoch reads") and "plants" in mixed.notes[0]
    with pytest.raises(ConfigError, match=r"more, plants"):
        prepared(tmp_path / "bad", entries, mix={"kind": "fixed", "weights": {"plants": 1}})


def test_one_task_cannot_be_mixed(tmp_path):
    with pytest.raises(DataError, match=r"one task, train"):
        prepared(tmp_path, "train.jsonl", mix={"kind": "uniform"})
