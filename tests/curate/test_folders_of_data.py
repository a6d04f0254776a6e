"""A folder stands for the files below it: in order, nothing silent, our own output passed over."""

import json
import os
from collections import Counter

import pytest

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.records import Chat
from domainwright.curate.pipeline import Wish, curate
from domainwright.curate.read import read, read_all
from tests.curate.test_curate_cli import dw
from tests.curate.test_pdf import page_text, pdf
from tests.curate.test_pipeline import lines, rows, write


@pytest.fixture
def folder(tmp_path):
    """Two files of rows, one that is empty, two of unknown kind, and what is to be passed over."""
    data = tmp_path / "data"
    (data / "b" / ".git").mkdir(parents=True)
    (data / "b" / ".git" / "x.jsonl").write_text("{}\n")
    write(data / "b" / "more.jsonl", rows(4, seed=1))
    write(data / "a.jsonl", rows(6))
    (data / "c.jsonl").write_text("")
    (data / "image.png").write_bytes(b"\x89PNG")
    (data / "README").write_text("hello")
    (data / ".hidden.jsonl").write_text("{}\n")
    curate(Wish(files=(data / "a.jsonl",)), data / "clean")
    (data / "runs" / "x").mkdir(parents=True)
    (data / "runs" / "x" / "study.yaml").write_text("# Written by Domainwright: the study\n")
    write(data / "runs" / "x" / "metrics.jsonl", rows(3))
    return data


def test_every_file_below_is_read_or_named_once(folder):
    result = read(folder)
    assert [(row.file.removeprefix(f"{folder}/"), row.line) for row in result.rows] == [
        *(("a.jsonl", n) for n in range(1, 7)),
        *(("b/more.jsonl", n) for n in range(1, 5)),
    ]
    assert len({row.id for row in result.rows}) == 10
    told = {entry.file.removeprefix(f"{folder}/"): entry.reason for entry in result.set_aside}
    assert told == {
        "README": "unknown_kind",
        "image.png": "unknown_kind",
        "c.jsonl": "unreadable_file",
    }
    assert result.records == len(result.rows) + len(result.set_aside) == 13
    assert result.format == "prompt_completion"


def test_links_are_told_and_not_followed(folder):
    os.symlink(folder, folder / "b" / "loop")
    os.symlink(folder / "gone.jsonl", folder / "b" / "dead.jsonl")
    os.symlink(folder / "b" / "more.jsonl", folder / "d.jsonl")
    with pytest.raises(DataError, match="listed twice"):
        read_all([folder])
    (folder / "d.jsonl").unlink()
    told = Counter(entry.reason for entry in read(folder).set_aside)
    assert told == {"unknown_kind": 2, "unreadable_file": 2, "linked_folder": 1}


def test_a_name_that_is_no_text_is_told(folder, tmp_path):
    (folder / os.fsdecode(b"caf\xe9.jsonl")).write_text("{}\n")
    result = curate(Wish(files=(folder,)), tmp_path / "out")
    assert result.reasons["read"]["unreadable_file"] == 2
    assert "caf\ufffd.jsonl" in (tmp_path / "out" / "dropped.jsonl").read_text("utf-8")
    assert read(folder).records == 14


def test_a_folder_and_a_file_of_it_are_the_same_rows_twice(folder, tmp_path):
    with pytest.raises(DataError, match="move the file out of the folder"):
        read_all([folder, folder / "a.jsonl"])
    with pytest.raises(ConfigError, match="listed twice"):
        curate(Wish(files=(folder, folder / "a.jsonl")), tmp_path / "out")


def test_the_hash_of_a_folder_is_that_of_its_contents(folder, tmp_path):
    before = read(folder).sha256
    folder.rename(tmp_path / "moved")
    assert read(tmp_path / "moved").sha256 == before
    write(tmp_path / "moved" / "a.jsonl", rows(5))
    assert read(tmp_path / "moved").sha256 != before


@pytest.mark.parametrize("inside", [{}, {"x.png": b"x"}, {"x.jsonl": b"", "y.csv": b"\xff\xfe"}])
def test_a_folder_without_data_says_what_to_do(tmp_path, inside):
    (tmp_path / "data").mkdir()
    for name, content in inside.items():
        (tmp_path / "data" / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"\({len(inside)} files seen") as raised:
        read(tmp_path / "data")
    assert "put files there as .jsonl" in raised.value.fix
    if "x.jsonl" not in inside:
        with pytest.raises(DataError, match="no file that can be read"):
            curate(Wish(files=(tmp_path / "data",)), tmp_path / "out")
    else:
        with pytest.raises(DataError, match="None of the 2 records"):
            curate(Wish(files=(tmp_path / "data",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_curated_dataset_is_read_by_its_folder(folder):
    assert len(read(folder / "clean").rows) == 6
    (folder / "clean" / "kept.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match="altered"):
        read(folder / "clean")
    with pytest.raises(DataError, match="is no data"):
        read(folder / "runs" / "x")


def test_curating_a_folder_accounts_for_every_file(folder, tmp_path):
    result = curate(Wish(files=(folder,)), tmp_path / "out")
    assert (result.records, result.kept, result.dropped) == (13, 10, 3)
    dropped = lines(tmp_path / "out" / "dropped.jsonl")
    assert Counter(entry["reason"] for entry in dropped) == {
        "unknown_kind": 2,
        "unreadable_file": 1,
    }
    (folder / "late.bin").write_bytes(b"x")
    again = curate(Wish(files=(folder,)), tmp_path / "out", fresh=True)
    assert again.reasons == {"read": {"unknown_kind": 3, "unreadable_file": 1}}


def test_the_same_names_in_many_folders_make_different_ids(tmp_path):
    for name in "abcd":
        (tmp_path / "data" / name).mkdir(parents=True)
        write(tmp_path / "data" / name / "x.jsonl", rows(3, seed=ord(name)))
    curate(Wish(files=(tmp_path / "data",)), tmp_path / "out")
    kept = read(tmp_path / "out").rows
    assert len({row.id for row in kept}) == 12 and all(isinstance(row, Chat) for row in kept)


def test_the_verb_takes_a_folder(folder, tmp_path):
    done = dw("curate", folder, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["records"] == 13
    shown = dw("curate", folder, "-o", tmp_path / "out", "--fresh").stdout
    assert "10 rows kept of 13 records" in shown and "dropped unknown_kind" in shown


def test_documents_keep_where_they_stood_through_curation(tmp_path):
    (tmp_path / "hand").mkdir()
    (tmp_path / "hand" / "a.md").write_text("# Gout\n\n## Care of ann.lee@example.com\n\nRest now.")
    (tmp_path / "hand" / "b.pdf").write_bytes(pdf([page_text("Page one."), page_text("Page two.")]))
    done = dw("curate", tmp_path / "hand", "-o", tmp_path / "out", "--documents")
    assert done.exit_code == 0, done.stderr
    rows = read(tmp_path / "out", as_documents=True).rows
    assert [(row.heading, row.page, row.text) for row in rows] == [
        ("Gout: Care of [EMAIL_1]", None, "Rest now."),
        ("b.pdf", 1, "Page one."),
        ("b.pdf", 2, "Page two."),
    ]
    assert read_all([tmp_path / "out"], as_documents=True)[0].format == "document"
