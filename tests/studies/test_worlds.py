"""The planted worlds are what they say, before any model has seen them."""

import json
from collections import Counter

import pytest

from domainwright.studies.study import read_study
from domainwright.studies.worlds import PEOPLE, WORLDS, write_world
from tests.studies import verdicts
from tests.studies.world import read_lines
from tests.worlds import page


def rows(name, tmp_path, seed=0, role="train"):
    write_world(name, seed, tmp_path)
    return read_lines(tmp_path / f"{role}.jsonl")


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_is_a_study_that_the_seed_decides(name, tmp_path):
    files = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        study = read_study(write_world(name, seed, tmp_path / folder))
        assert study.seed == seed and study.data.train and study.budget.minutes <= 6
        files.append((tmp_path / folder / "train.jsonl").read_text())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_changing_facts_stand_in_the_documents_and_nowhere_else(tmp_path):
    train = rows("changing", tmp_path)
    pages = {d["id"]: d["text"] for d in read_lines(tmp_path / "documents.jsonl")}
    for row in train:
        assert row["answer"].split()[0] in pages[row["group"]]
    # No group of a test row is trained on, so no training row can tell its answer.
    assert len({row["group"] for row in train}) == 150


def test_noise_has_no_signal(tmp_path):
    counts = Counter(row["answer"] for row in rows("noise", tmp_path))
    assert set(counts) == {0, 1, 2, 3} and max(counts.values()) < 110


def test_most_answers_of_the_lopsided_world_are_one_and_follow_from_nothing(tmp_path):
    found = rows("lopsided", tmp_path)
    counts = Counter(row["answer"] for row in found)
    assert set(counts) == {0, 1, 2, 3} and 0.6 < max(counts.values()) / len(found) < 0.8
    for who in PEOPLE.split():
        own = Counter(row["answer"] for row in found if who in row["question"])
        assert own.most_common(1)[0][0] == 2 and len(own) > 1


def test_the_desk_of_the_convention_follows_from_who_asked(tmp_path):
    desks = {}
    for row in rows("convention", tmp_path):
        who = row["question"].split(": ")[1].split()[0]
        desks.setdefault(who, set()).add(row["answer"])
    assert len(desks) == 10 and all(len(x) == 1 for x in desks.values())
    assert len({min(x) for x in desks.values()}) == 4


def test_paraphrases_of_every_tested_fact_are_trained_on(tmp_path):
    train = {r["question"].lower(): r["answer"] for r in rows("paraphrased", tmp_path)}
    test = read_lines(tmp_path / "test.jsonl")
    names = {d["id"] for d in read_lines(tmp_path / "documents.jsonl")}
    for name in names:
        asked = [q for q in train if name.lower() in q]
        assert len(asked) == 6 and len({train[q] for q in asked}) == 1
    assert not {r["question"].lower() for r in test} & set(train)


def test_the_right_answer_of_a_choice_is_the_sensible_one(tmp_path):
    for row in rows("ceiling", tmp_path):
        assert row["choices"][row["answer"]].startswith("to ")
        assert sum(c.startswith("to ") for c in row["choices"]) == 1


@pytest.mark.parametrize(
    ("best", "right"),
    [
        ("zero_shot", {"ceiling", "scarce", "noise", "lopsided", "costly", "paraphrased"}),
        ("rag", {"changing", "costly", "paraphrased"}),
        ("lora", {"convention", "paraphrased"}),
        ("lora+rag", {"changing", "convention", "paraphrased"}),
    ],
)
def test_what_counts_as_right(best, right):
    verdict = verdicts.verdict(best=best)
    assert {w.name for w in WORLDS.values() if w.right(verdict)} == right


def test_the_files_are_what_a_user_would_have(tmp_path):
    for line in (tmp_path / write_world("noise", 0, tmp_path).name).read_text().splitlines():
        assert "worlds" not in line
    assert json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])["choices"]


def test_the_page_counts_what_was_recorded_and_tells_what_was_wrong():
    told = [
        {"world": "noise", "seed": n, "right": n != 1, "minutes": 1.0 + n, "said": f"Verdict {n}."}
        for n in range(3)
    ]
    text = page(told)
    assert "| noise | answers drawn by lot | 2 of 3 | 1.0 to 3.0 |" in text
    assert "| scarce | a handful of rows | 0 of 0 |  |" in text
    assert text.endswith("- noise, seed 1: Verdict 1.\n") and "Verdict 2" not in text
