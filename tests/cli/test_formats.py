"""Every data format a study can name, and broken files of each: rows, or two lines and exit 3."""

import csv
import gzip
import json
import random

import polars
import pytest

from domainwright.studies.data import prepare
from domainwright.studies.study import read_study
from tests.studies import world

ROWS = [{k: str(v) for k, v in row.items()} for row in world.questions()]


def jsonl(path):
    path.write_text("".join(json.dumps(r) + "\n" for r in ROWS))


def table(path, delimiter=","):
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        out.writeheader()
        out.writerows(ROWS)


def zipped(path):
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(r) + "\n" for r in ROWS)


WRITERS = {
    "a.jsonl": jsonl,
    "a.ndjson": jsonl,
    "a.json": lambda path: path.write_text(json.dumps(ROWS)),
    "a.csv": table,
    "a.tsv": lambda path: table(path, "\t"),
    "a.parquet": lambda path: polars.DataFrame(ROWS).write_parquet(path),
    "a.jsonl.gz": zipped,
}


def study(folder, name, **changes):
    return world.study_file(folder, folder / "base", data={"train": name}, **changes)


@pytest.mark.parametrize("name", WRITERS)
def test_one_content_in_every_format(tmp_path, name):
    WRITERS[name](tmp_path / name)
    data = prepare(read_study(study(tmp_path, name)), tmp_path / "run")
    rows = (*data.split.train, *data.split.dev, *data.split.test)
    assert data.task == "answers" and len(rows) == 60 and not data.set_aside
    assert {(r.id, r.group, r.question, r.answer) for r in rows} == {
        (r["id"], r["group"], r["question"], r["answer"]) for r in ROWS
    }


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz"])
def test_plain_text(tmp_path, name):
    # A block of text has about 2,000 characters; twelve of them can be split.
    draw = random.Random(0)
    text = "\n\n".join(" ".join(draw.choices(world.PLANTS, k=300)) for _ in range(12))
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wt") as file:
        file.write(text)
    data = prepare(read_study(study(tmp_path, name)), tmp_path / "run")
    assert data.task == "texts" and len(data.split.test) >= 2


BROKEN = {
    "a.jsonl": b"{not json\n[1, 2]\n",
    "b.jsonl": b'{"colour": "red"}\n',
    "c.jsonl": b'{"question": "", "answer": ""}\n',
    "d.jsonl": b"\x00\xff\xfe\x81" * 50,
    "a.json": b'[{"question": "a", "answer"',
    "b.json": b"42",
    "a.csv": b"question,answer\n",
    "b.csv": b'question,answer\n"never closed,x\n',
    "c.csv": b"\x89PNG\r\n\x1a\n\x00\x00",
    "a.tsv": b"one\ttwo\n1\t2\n",
    "a.parquet": b"PAR1 but not really PAR1",
    "b.parquet": b"",
    "a.txt": b"   \n\n",
    "b.txt": b"\x00\x01\x02\xff" * 99,
    "a.jsonl.gz": b"no gzip at all",
    "b.jsonl.gz": gzip.compress(b'{"question": "a", "answer": "b"}\n' * 99)[:40],
    "a.parquet.gz": b"x",
    "a.pdf": b"%PDF-1.4",
    "noending": b"x",
    "empty.jsonl": b"",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_ends_in_two_lines(tmp_path, dw, name):
    (tmp_path / name).write_bytes(BROKEN[name])
    said = dw("decide", study(tmp_path, name), "-o", tmp_path / "run")
    assert said.code == 3 and said.out == ""
    lines = [line for line in said.err.splitlines() if not line.startswith("read data")]
    assert len(lines) == 2, said.err
    assert lines[0].startswith("error: ") and lines[1].startswith("  fix: ")
    assert name in lines[0] and len(lines[1]) > 15


@pytest.mark.parametrize("name", ["nothere.jsonl", "folder"])
def test_a_missing_file_or_a_folder(tmp_path, dw, name):
    (tmp_path / "folder").mkdir()
    said = dw("decide", study(tmp_path, name), "-o", tmp_path / "run")
    assert said.code == 3 and name in said.err and "  fix: " in said.err


def test_one_file_twice_and_several_kinds(tmp_path, dw):
    two = study(tmp_path, ["train.jsonl", "./train.jsonl"])
    assert "listed twice" in dw("decide", two, "-o", tmp_path / "run").err
    world.write_lines(tmp_path / "choices.jsonl", world.choices())
    mixed = study(tmp_path, ["train.jsonl", "choices.jsonl"])
    said = dw("decide", mixed, "-o", tmp_path / "other")
    assert said.code == 3 and "several kinds of rows: chat, choice" in said.err


@pytest.mark.parametrize("share", [0, 1.5, "half", True])
def test_a_share_that_is_none(tmp_path, dw, share):
    wrong = study(tmp_path, {"path": "train.jsonl", "share": share})
    said = dw("decide", wrong, "-o", tmp_path / "run")
    assert said.code == 2 and f"share of {share!r}" in said.err


def test_too_little_data(tmp_path, dw):
    few = world.study_file(tmp_path, tmp_path / "base", world.questions(world.PLANTS[:1]))
    said = dw("decide", few, "-o", tmp_path / "run")
    assert said.code == 3 and "fix: give more data" in said.err
