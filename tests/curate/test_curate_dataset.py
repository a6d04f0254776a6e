"""The dataset folder: rows come back equal, and counts that do not add up are refused."""

import json
from collections import Counter

import pytest

from domainwright.core.artifacts import sha256_file
from domainwright.core.errors import DataError
from domainwright.core.records import Chat, Choice, Document, Message, Preference, Rated, Text
from domainwright.curate.dataset import read_dataset, row_as_json, row_from_json, write_dataset
from domainwright.curate.duplicates import drop_duplicates
from domainwright.curate.overlap import overlap, remove_leaks
from domainwright.curate.read import read_all
from domainwright.curate.split import split, split_given

BASE = {"id": "1", "group": "g", "file": "f.jsonl", "line": 3, "date": "2024-01-02", "topic": "t"}
PROMPT = (Message("system", "s"), Message("user", "q\u2028\n\"'"))
KINDS = [
    Chat(**BASE, messages=(*PROMPT, Message("assistant", "診断"))),
    Choice(**BASE, question="q", choices=("a", "b"), answer=1, context="c"),
    Text(**BASE, text="x\ny"),
    Preference(**BASE, prompt=PROMPT, chosen="a", rejected="b"),
    Rated(**BASE, prompt=PROMPT, reply="r", wanted=False),
    Document(id="1", group="g", file="f", line=1, title="t", text="x"),
]


@pytest.mark.parametrize("row", KINDS, ids=lambda row: type(row).__name__)
def test_every_kind_comes_back_equal(row):
    assert row_from_json(json.loads(json.dumps(row_as_json(row)))) == row


def test_an_unknown_kind():
    with pytest.raises(DataError, match="'poem'"):
        row_from_json({"kind": "poem"})


@pytest.fixture
def source(tmp_path):
    records = [{"question": f"Q{n}?", "answer": f"A{n}."} for n in range(30)]
    records += [{"question": "Q1?", "answer": "A1."}, {"question": "Q?", "answer": ""}]
    path = tmp_path / "qa.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + "{\n")
    return path


def test_from_file_to_folder_and_back(tmp_path, source):
    reads = read_all([source])
    rows, aside = drop_duplicates(reads[0].rows)
    made = split(rows, seed=0)
    manifest = write_dataset(tmp_path / "out" / "set", made, aside, reads)
    assert manifest["parents"] == {str(source): sha256_file(source)}
    facts = manifest["facts"]
    assert facts["set_aside"] == {"empty_answer": 1, "exact_duplicate": 1, "not_json": 1}
    assert facts["records"] == sum(facts["rows"].values()) + sum(facts["set_aside"].values()) == 33
    assert facts["files"][0]["format"] == "prompt_completion"
    assert facts["files"][0]["columns"] == {"question": "question", "answer": "answer"}
    back = read_dataset(tmp_path / "out" / "set")
    assert (back.train, back.dev, back.test) == (made.train, made.dev, made.test)
    assert Counter(entry.reason for entry in back.set_aside) == facts["set_aside"]
    assert set(back.set_aside) == {*aside, *reads[0].set_aside}
    assert back.manifest == manifest


def test_the_same_input_gives_the_same_hash(tmp_path, source):
    hashes = set()
    for name in "ab":
        reads = read_all([source])
        rows, aside = drop_duplicates(reads[0].rows)
        hashes.add(write_dataset(tmp_path / name, split(rows, seed=0), aside, reads)["hash"])
    assert len(hashes) == 1


def test_a_lost_row_is_refused(tmp_path, source):
    reads = read_all([source])
    rows, aside = drop_duplicates(reads[0].rows)
    with pytest.raises(
        DataError, match="33 records were read, but 29 rows and 3 set aside make 32"
    ):
        write_dataset(tmp_path / "set", split(rows[1:], seed=0), aside, reads)
    with pytest.raises(DataError, match="33 records"):
        write_dataset(tmp_path / "set", split(rows, seed=0), [], reads)
    assert not (tmp_path / "set").exists()


def test_given_parts_with_a_leak_add_up(tmp_path, source):
    test = tmp_path / "test.jsonl"
    test.write_text(
        '{"question": "Q3?", "answer": "A3."}\n{"question": "New?", "answer": "Yes."}\n'
    )
    reads = read_all([source, test])
    train, copies = drop_duplicates(reads[0].rows)
    train, leaks = remove_leaks(train, overlap(train, reads[1].rows))
    made = split_given(train, reads[1].rows)
    manifest = write_dataset(tmp_path / "set", made, [*copies, *leaks], reads)
    assert manifest["facts"]["set_aside"]["leaks_into_test"] == 1
    assert manifest["facts"]["records"] == 35


def test_an_altered_folder_is_refused(tmp_path, source):
    reads = read_all([source])
    rows, aside = drop_duplicates(reads[0].rows)
    write_dataset(tmp_path / "set", split(rows, seed=0), aside, reads)
    (tmp_path / "set" / "test.jsonl").write_text("")
    with pytest.raises(DataError, match="altered"):
        read_dataset(tmp_path / "set")
