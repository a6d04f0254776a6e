"""`data.curate`: training rows are cleaned ahead of the split, given test rows only reported."""

from collections import Counter

import pytest

from domainwright.core.errors import DataError
from domainwright.curate.dataset import read_dataset
from domainwright.studies.data import prepare
from domainwright.studies.study import read_study
from tests.studies import world

MAIL = "Write to ann.lee@example.com today."
BAD = [
    {"id": "mail", "group": "m", "question": "Who sells moss?", "answer": MAIL},
    {"id": "loop", "group": "l", "question": "What is it?", "answer": "la la la " * 12},
    {
        "id": "copy",
        "group": "c",
        "question": "What colour is  fern?",
        "answer": "fern is white",
    },
    {
        "id": "conflict",
        "group": "d",
        "question": "What colour is alder?",
        "answer": "alder is black",
    },
]


@pytest.fixture
def prepared(tmp_path, base):
    def make(name, rows=None, domain=None, **data):
        file = world.study_file(tmp_path / name, base, rows, data=data, domain=domain)
        study = read_study(file)
        return prepare(study, tmp_path / name / "run")

    return make


def test_each_drop_is_set_aside_with_its_reason(prepared, tmp_path):
    plain = prepared("plain", [*world.questions(), *BAD])
    assert not plain.notes
    data = prepared("clean", [*world.questions(), *BAD], curate=True)
    reasons = {x.id: x.reason for x in data.set_aside}
    assert reasons["loop"] == "gibberish" and reasons["conflict"] == "conflicting_duplicate"
    stored = read_dataset(tmp_path / "clean" / "run" / "dataset")
    rows = [*stored.train, *stored.dev, *stored.test]
    assert len(rows) + len(stored.set_aside) == 64
    assert not any("ann.lee" in row.answer for row in rows)
    assert "and changed 1 pii." in data.notes[0]
    found = {x.id for x in data.set_aside}
    assert data.notes[0].startswith(f"Curation set {len(found)} of ")


def test_given_test_rows_are_reported_and_stay(prepared, tmp_path, base):
    folder = tmp_path / "given"
    folder.mkdir()
    world.write_lines(folder / "test.jsonl", BAD[:2])
    data = prepared("given", curate=True, test="test.jsonl")
    assert [row.id for row in data.split.test] == ["mail", "loop"]
    assert MAIL in data.split.test[0].answer
    assert not {"mail", "loop"} & {x.id for x in data.set_aside}
    assert data.notes[-1] == (
        "It would set 1 of the 2 test rows aside (1 gibberish) and change 1 pii; "
        "they stay as they were given."
    )


def test_the_domain_brings_its_preset(prepared):
    case = {"id": "case", "group": "x", "question": "Who?", "answer": "Case number: 4711-0815-22."}
    rows = [*world.questions(), case]
    assert "changed none" in prepared("none", rows, curate=True).notes[0]
    assert "changed 1 pii" in prepared("some", rows, "medical", curate=True).notes[0]


def test_a_folder_is_the_training_data(prepared, tmp_path):
    folder = tmp_path / "whole" / "rows"
    folder.mkdir(parents=True)
    rows = world.questions()
    world.write_lines(folder / "a.jsonl", rows[:30])
    world.write_lines(folder / "b.jsonl", rows[30:])
    (folder / "notes.odt").write_bytes(b"x")
    data = prepared("whole", train="rows")
    split = data.split
    assert len(split.train) + len(split.dev) + len(split.test) == 60
    assert Counter(x.reason for x in data.set_aside) == {"unknown_kind": 1}
    assert data.sources[0].file.endswith("rows") and data.sources[0].kept == 60


def test_nothing_left_says_so(prepared):
    rows = [BAD[1] | {"id": f"r{n}", "group": f"g{n}"} for n in range(9)]
    rows = [row | {"answer": f"{row['answer']} {n}"} for n, row in enumerate(rows)]
    with pytest.raises(DataError, match="leaves none of the 9 training rows"):
        prepared("none", rows, curate=True)
