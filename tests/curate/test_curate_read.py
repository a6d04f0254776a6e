"""Whole files: which format they are, what is set aside, and that everything is counted."""

import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domainwright.core.errors import ConfigError, DataError, UnknownName
from domainwright.core.records import Document
from domainwright.curate.read import read, read_all

SHARED = Path(__file__).parents[2].parent / "shared"
QA = {"question": "Why?", "answer": "So."}
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
SHARE = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
FORMATS = {
    "messages": [CHAT, {"conversations": CHAT["messages"]}, {"Chat": CHAT["messages"]}],
    "sharegpt": [SHARE, {"conversation": SHARE["conversations"]}],
    "alpaca": [
        {"instruction": "a", "input": "", "output": "b"},
        {"instruction": "a", "context": "", "response": "b", "category": "c"},
    ],
    "prompt_completion": [
        QA,
        {"Prompt": "a", "Completion": "b"},
        {"query": "a", "response": "b"},
        {"input": "a", "output": "b"},
        {"question": "a", "answer": "b", "label": "dose"},
        {"user": "a", "assistant": "b"},
    ],
    "choice": [
        {"question": "a", "choices": ["x", "y"], "answer": 0},
        {"question": "a", "A": "x", "B": "y", "C": "z", "answer": "B"},
        {"Question": "a", "Option 1": "x", "Option 2": "y", "Answer Key": "y"},
        {"question": "a", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"},
        {"question": "a", "options": {"A": "x", "B": "y"}, "answer": "y", "answer_idx": "B"},
        {"question": "a", "passage": "p", "choices": ["x", "y"], "answer": 0, "category": "c"},
    ],
    "preference": [
        {"prompt": "a", "chosen": "b", "rejected": "c", "messages": []},
        {
            "chosen": [*CHAT["messages"]],
            "rejected": [CHAT["messages"][0], {"role": "assistant", "content": "c"}],
        },
    ],
    "rated": [
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": "a", "completion": "b", "label": "False"},
        {"prompt": "a", "completion": "b", "thumbs_up": 1},
    ],
    "labelled": [{"text": "a", "label": "b"}, {"text": "a", "category": "b", "title": "t"}],
    "tagged": [
        {"words": ["a"], "labels": ["B-X"]},
        {"id": 1, "tokens": ["a"], "pos_tags": [7], "ner_tags": ["O"]},
        {"tokens": ["a"], "ner_tags": [1], "tag_names": ["O", "B-X"]},
        {"text": "a", "entities": [{"start": 0, "end": 1, "label": "X"}]},
        {"text": "a", "label": [[0, 1, "X"]]},
        {"text": "a", "tokens": [{"text": "a", "start": 0, "end": 1}], "spans": []},
    ],
    "text": [{"text": "a"}, {"body": "a"}, {"title": "t", "content": "a"}],
}


def lines(folder, records, name="a.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.mark.parametrize(
    ("name", "record"), [(name, r) for name, found in FORMATS.items() for r in found], ids=str
)
def test_the_format_is_found(tmp_path, name, record):
    result = read(lines(tmp_path, [record]))
    assert (result.format, result.records, len(result.rows)) == (name, 1, 1)
    assert not result.set_aside
    used = {part for column in result.columns.values() for part in column.split(", ")}
    assert used <= set(record)


def test_columns_say_what_was_used(tmp_path):
    record = {"Question": "a", "A": "x", "B": "y", "Answer": "B", "Patient ID": 3, "note": "n"}
    assert read(lines(tmp_path, [record])).columns == {
        "question": "Question",
        "choices": "A, B",
        "answer": "Answer",
        "group": "Patient ID",
    }


def test_a_mixed_file_keeps_what_most_of_it_is(tmp_path):
    result = read(lines(tmp_path, [QA, CHAT, QA, {"nothing": 1}, QA]))
    assert result.format == "prompt_completion"
    assert [row.line for row in result.rows] == [1, 3, 5]
    assert [(s.line, s.reason) for s in result.set_aside] == [
        (2, "other_format"),
        (4, "missing_column"),
    ]


def test_the_user_names_the_columns(tmp_path):
    record = {"Frage": "Warum?", "Antwort": "Darum.", "prompt": "not this", "Akte": "7"}
    path = lines(tmp_path, [record])
    result = read(path, columns={"question": "Frage", "answer": "Antwort", "group": "Akte"})
    assert (result.rows[0].question, result.rows[0].answer) == ("Warum?", "Darum.")
    assert result.rows[0].group == "7"
    assert result.columns == {"question": "Frage", "answer": "Antwort", "group": "Akte"}
    result = read(path, columns={"prompt": "Frage", "completion": "Antwort"})
    assert result.rows[0].question == "Warum?"
    with pytest.raises(DataError, match=r"no column 'frag' .*it has: Frage"):
        read(path, columns={"question": "Frag", "answer": "Antwort"})
    with pytest.raises(ConfigError, match="write 'question'"):
        read(path, columns={"qestion": "Frage"})


def test_a_named_column_hides_the_usual_names(tmp_path):
    record = {"Frage": "a", "prompt": "not this", "chosen": "b", "rejected": "c"}
    result = read(lines(tmp_path, [record]), columns={"question": "Frage"})
    assert result.rows[0].prompt[0].content == "a"
    assert result.columns["question"] == "Frage"


def test_columns_of_few_records_are_not_reported(tmp_path):
    result = read(lines(tmp_path, [QA, QA, QA | {"context": "x", "group": "g"}]))
    assert result.columns == {"question": "question", "answer": "answer"}


def test_nothing_recognised_teaches(tmp_path):
    with pytest.raises(DataError) as caught:
        read(lines(tmp_path, [{"Frage": "a", "Antwort": "b"}]))
    message = str(caught.value)
    for part in ("Frage, Antwort", "format:", "columns:", "choice (question, choices, answer)"):
        assert part in message


def test_a_file_of_faults_is_an_error_that_counts_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{\n[]\n{\n")
    with pytest.raises(DataError, match=r"None of the 3 records .*2 not_json \(line 1"):
        read(path)
    with pytest.raises(DataError, match=r"1 empty_answer \(line 1: answer is empty\)"):
        read(lines(tmp_path, [QA | {"answer": ""}]))


def test_unknown_format(tmp_path):
    with pytest.raises(UnknownName, match="use 'alpaca'"):
        read(lines(tmp_path, [QA]), format="alpacca")


def test_a_format_that_is_asked_for(tmp_path):
    record = {"instruction": "a", "input": "b", "output": "c"}
    assert read(lines(tmp_path, [record]), format="prompt_completion").rows[0].question == "a"
    with pytest.raises(DataError, match="missing_column"):
        read(lines(tmp_path, [QA]), format="alpaca")


def test_ids(tmp_path):
    records = [QA | {"id": "x"}, QA, QA | {"id": "x"}, QA | {"id": 3}, QA | {"id": " "}]
    result = read(lines(tmp_path, records, "my.data.jsonl"))
    assert [row.id for row in result.rows] == ["x", "my.data:2", "3", "my.data:5"]
    assert [(s.line, s.id, s.reason) for s in result.set_aside] == [(3, "x", "duplicate_id")]
    assert "line 1" in result.set_aside[0].detail


def test_placeholders_are_empty_answers_while_they_are_rare(tmp_path):
    rare = [QA] * 39 + [QA | {"answer": " N/A "}]
    result = read(lines(tmp_path, rare))
    assert [(s.line, s.reason) for s in result.set_aside] == [(40, "empty_answer")]
    often = [QA] * 9 + [QA | {"answer": "N/A"}]
    assert not read(lines(tmp_path, often)).set_aside


def test_tables(tmp_path):
    path = tmp_path / "a.csv"
    chat = json.dumps(CHAT["messages"]).replace('"', '""')
    path.write_text(f'id,messages,created\n1,"{chat}",2024-01-02\n2,,2024-01-02\n')
    result = read(path)
    assert (result.format, result.rows[0].answer, result.rows[0].line) == ("messages", "b", 2)
    assert [s.reason for s in result.set_aside] == ["wrong_type"]
    pq.write_table(pa.Table.from_pylist([SHARE, SHARE]), tmp_path / "b.parquet")
    result = read(tmp_path / "b.parquet")
    assert (result.format, [row.id for row in result.rows]) == ("sharegpt", ["b:1", "b:2"])


def test_several_files(tmp_path):
    first = lines(tmp_path, [QA | {"id": 1}, QA | {"id": 2, "group": "g"}], "a.jsonl")
    second = lines(tmp_path, [QA | {"id": 1}], "b.jsonl")
    third = lines(tmp_path, [{"Frage": "a", "answer": "b", "id": 2, "group": "g"}], "c.jsonl")
    results = read_all([first, str(second), {"path": str(third), "columns": {"question": "Frage"}}])
    rows = [row for result in results for row in result.rows]
    assert len({row.id for row in rows}) == 4
    assert [row.id for row in rows[:2]] == ["1", "2"]
    assert len({row.group for row in rows[:3]}) == 3, "files that count from 1 share no group"
    assert rows[3].group == "g", "a group that the file gives means the same everywhere"
    with pytest.raises(DataError, match="listed twice"):
        read_all([first, tmp_path / "x" / ".." / "a.jsonl"])
    with pytest.raises(ConfigError, match="write 'format'"):
        read_all([{"path": str(first), "fromat": "text"}])


def test_a_folder_of_documents(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.md").write_text("# Head\n\nBody\n")
    (tmp_path / "a.txt").write_text("Text\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "scan.tiff").write_bytes(b"II*")
    (tmp_path / ".hidden").write_text("x")
    lines(tmp_path, [{"id": 1, "title": "T", "text": "x"}, {"title": "U"}])
    result = read(tmp_path, as_documents=True)
    assert result.records == len(result.rows) + len(result.set_aside) == 6
    assert all(isinstance(row, Document) for row in result.rows)
    assert [row.title for row in result.rows] == ["T", "a.txt", "Head"]
    assert Counter(s.reason for s in result.set_aside) == {
        "unreadable_file": 1,
        "unknown_kind": 1,
        "missing_column": 1,
    }
    assert len(read(tmp_path).rows) == 3, "the same texts to learn from"
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no file"):
        read(tmp_path / "none", as_documents=True)


def test_the_hash_names_the_bytes(tmp_path):
    one, two = lines(tmp_path, [QA], "a.jsonl"), lines(tmp_path, [QA], "b.jsonl")
    assert read(one).sha256 == read(two).sha256
    assert len(read(one).sha256) == 64


@pytest.mark.parametrize("seed", range(30))
def test_every_line_is_counted_whatever_is_in_it(tmp_path, seed):
    """Random records of all formats with random values: rows + set aside = lines."""
    rng = random.Random(seed)
    values = [
        None,
        "",
        "x",
        "N/A",
        1,
        2.5,
        True,
        [],
        {},
        ["a", "b"],
        CHAT["messages"],
        "[",
        "\u2028",
    ]
    examples = [record for found in FORMATS.values() for record in found]
    main = rng.choice(examples)
    records = [main] * 5
    for _ in range(60):
        record = dict(rng.choice([main, main, rng.choice(examples)]))
        for key in list(record) + ["id", "group", "date"]:
            if rng.random() < 0.15:
                record[key] = rng.choice(values)
            if rng.random() < 0.05:
                record.pop(key, None)
        records.append(record)
    rng.shuffle(records)
    text = "".join(rng.choice(["", "\n"]) + json.dumps(r) + "\n" for r in records)
    path = tmp_path / "a.jsonl"
    path.write_text(text + "{broken\n[1]\n")
    result = read(path)
    assert result.records == len(result.rows) + len(result.set_aside) == 67
    numbers = [x.line for x in [*result.rows, *result.set_aside]]
    filled = [n for n, line in enumerate(path.read_text().split("\n"), 1) if line]
    assert sorted(numbers) == filled
    assert len({row.id for row in result.rows}) == len(result.rows)


real = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="../shared/data is not here")
CLEAN = {
    "medical/mc_pubmedqa": ("choice", 828),
    "general/instructions": ("messages", 2872),
    "general/text": ("text", 188),
    "safety/preferences": ("preference", 1436),
    "legal/mc_mmlu": ("choice", 1448),
}
DEFECTS = {
    "truncated_json": {"not_json"},
    "empty_answer": {"empty_answer"},
    "empty_text": {"empty_text"},
    "empty_question": {"empty_question"},
    "identical_pair": {"identical_pair"},
    "answer_out_of_range": {"answer_out_of_range"},
    "duplicate_choices": {"duplicate_choices"},
    "missing_choices": {"too_few_choices"},
    "malformed_record": {
        "missing_column",
        "no_assistant_turn",
        "roles_out_of_order",
        "empty_answer",
    },
}


@real
@pytest.mark.parametrize("name", CLEAN)
def test_clean_files_are_read_whole(name):
    result = read(SHARED / "data" / f"{name}.jsonl")
    assert (result.format, len(result.rows), result.set_aside) == (*CLEAN[name], [])
    assert result.columns["group"] == "group"


@real
def test_documents_of_the_real_files():
    result = read(SHARED / "data" / "legal" / "retrieval_docs.jsonl", as_documents=True)
    assert (result.format, len(result.rows), result.set_aside) == ("document", 788, [])


@real
@pytest.mark.parametrize("kind", ["instructions", "choices", "text", "preferences"])
def test_dirty_files_lose_exactly_their_defective_rows(kind):
    path = SHARED / "data" / "dirty" / f"{kind}_dirty.jsonl"
    with (path.parent / f"{kind}_dirty.truth.jsonl").open() as file:
        truth = {entry["line"]: entry["defect"] for entry in map(json.loads, file)}
    with path.open("rb") as file:
        total = sum(1 for _ in file)
    result = read(path)
    assert result.records == len(result.rows) + len(result.set_aside) == total
    found = {entry.line: entry.reason for entry in result.set_aside}
    assert set(found) == {line for line, defect in truth.items() if defect in DEFECTS}
    assert all(found[line] in DEFECTS[truth[line]] for line in found)
