"""The page of a curated dataset: its figures add up, and no text of the data is markup."""

import json
from collections import Counter

import pytest

from domainwright.core.records import (
    Chat,
    Choice,
    Document,
    Labelled,
    Message,
    Preference,
    Rated,
    Tagged,
    Text,
)
from domainwright.curate._fields import parts
from domainwright.curate._page import by_length, characters
from domainwright.curate._table import columns
from domainwright.curate.pipeline import Wish, curate

AT = {"id": "a", "group": "a", "file": "f", "line": 1}
ASKED = (Message("user", "Was ist los? é😀"), Message("assistant", "Nichts."))
ROWS = [
    Chat(**AT, messages=ASKED),
    Choice(**AT, question="Why?", context="so", choices=("a", "bb", "ccc"), answer=1),
    Text(**AT, text="four"),
    Labelled(**AT, text="four", label="not counted"),
    Tagged(**AT, words=("ab", "c"), tags=("O", "B-X")),
    Preference(**AT, prompt=ASKED[:1], chosen="yes", rejected="no"),
    Rated(**AT, prompt=ASKED[:1], reply="yes", wanted=True),
    Document(**AT, title="T", text="body", section="S"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_the_characters_of_every_kind(row):
    own = sum(len(text) for _, text in parts(row))
    if isinstance(row, Tagged):
        own -= len(row.words) - 1  # the spaces between its words
    assert characters(columns([row, row])).tolist() == [own, own]


def test_rows_by_powers_of_two():
    lengths = [0, 1, 2, 3, 4, 7, 8, 1023, 1024]
    found = by_length(characters(columns([Text(**AT, text="x" * n) for n in lengths])))
    assert found == Counter({1: 2, 2: 2, 4: 2, 8: 1, 512: 1, 1024: 1})


def test_the_page_tells_what_became_of_the_records(tmp_path):
    kept = [
        {"id": f"k{n}", "text": f"The {n}th patient came back in good health."} for n in range(8)
    ]
    bad = {"id": "<b>bad</b>", "text": kept[0]["text"]}
    for name, rows in (("a&b.jsonl", [*kept[:5], bad]), ("c.jsonl", kept[5:])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name).write_text(lines + ("not json\n" if name == "c.jsonl" else ""))
    files = (tmp_path / "a&b.jsonl", tmp_path / "c.jsonl")
    found = curate(Wish(files=files), tmp_path / "out")
    assert {name.rpartition("/")[2]: own for name, own in found.files.items()} == {
        "a&b.jsonl": {"kept": 5, "dropped": 1},
        "c.jsonl": {"kept": 3, "dropped": 1},
    }
    assert sum(found.lengths.values()) == found.kept == 8
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "8 of 10 records are kept" in page and "exact_duplicate" in page
    assert "a&amp;b.jsonl" in page and "&lt;b&gt;bad" in page and "<b>bad" not in page
    assert "http" not in page.replace("http-equiv", "")
    again = curate(Wish(files=files), tmp_path / "again")
    assert (tmp_path / "again" / "report.html").read_text(encoding="utf-8") == page
    assert again.lengths == found.lengths
