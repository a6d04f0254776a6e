"""Markdown is cut at its headings; what is no heading, and files without any, stay as they are."""

import random

import pytest

from domainwright.core.records import Document
from domainwright.curate import _markdown
from domainwright.curate.dataset import row_as_json, row_from_json
from domainwright.curate.pipeline import Wish, curate
from domainwright.curate.read import read
from domainwright.prompting._index import passages_of

PAGE = """\
# Gout

Uric acid builds up.

## Care

Drink *water*.

- rest

- ice
  ```
  # no heading
  ```

| dose | per day |
| --- | --- |
| 5 mg | 2 |

### Diet ###

```python
# a comment
```

Doses
-----

1. one
2. two
#hashtag
"""


@pytest.fixture
def documents(tmp_path):
    def read_text(text, name="x.md"):
        (tmp_path / name).write_text(text, "utf-8")
        return read(tmp_path / name, as_documents=True).rows

    return read_text


def test_sections_have_a_title_a_path_and_their_line(documents):
    assert [(row.title, row.section, row.line, row.id) for row in documents(PAGE)] == [
        ("Gout", "", 3, "x:3"),
        ("Gout", "Care", 7, "x:7"),
        ("Gout", "Care > Diet", 22, "x:22"),
        ("Gout", "Doses", 29, "x:29"),
    ]
    assert documents(PAGE)[3].text == "1. one\n2. two\n#hashtag"
    assert documents(PAGE)[2].text == "```python\n# a comment\n```"
    assert "- rest\n\n- ice\n  ```\n  # no heading\n  ```" in documents(PAGE)[1].text


@pytest.mark.parametrize(
    ("text", "title", "section"),
    [
        ("---\ntitle: 'A book'\nauthor: B\n---\n# One\n\ntext", "A book", "One"),
        ("---\ntitle: One\n---\n# One\n\ntext", "One", ""),
        ("# One\n\n# Two\n\ntext", "x", "Two"),
        ("## One\n\ntext\n\n# Two", "x", "One"),
        ("lead\n\n# **One** [two](three) `four` {#five}\n\n## six\n\ntext", "One two four", "six"),
        ("One\n===\n\nTwo\n---\ntext", "One", "Two"),
        ("   # One\ntext", "One", ""),
    ],
)
def test_titles(documents, text, title, section):
    row = documents(text)[-1]
    assert (row.title, row.section) == (title, section) and row.text == "text"


@pytest.mark.parametrize(
    "text",
    [
        "Just words.\n\nAnd more.",
        "    # code\n\n#hashtag\n\n#######\n\n```\n# comment\n```",
        "---\nauthor: B\n---\n\ntext",
        "a | b\n--- | ---\n1 | 2",
        "text\n\n---\n\ntext",
        "# only\n\n## headings",
        "# " + "x" * 400 + "\n\ntext",
        "~~~\n# never closed\n\n# at all",
    ],
)
def test_a_file_without_headings_is_plain_text(documents, text):
    found, plain = documents(text), documents(text, "x.txt")
    assert [(row.id, row.text, row.section) for row in found] == [
        (row.id, row.text, "") for row in plain
    ]


def test_a_title_alone_leaves_text_and_ids_alone(documents):
    (row,) = documents("---\ntitle: Notes\n---\ntext")
    assert (row.title, row.text) == ("Notes", "---\ntitle: Notes\n---\ntext")


def test_lists_and_tables_stay_whole_and_words_do_not(documents, monkeypatch):
    table = "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 600
    items = "\n\n".join(f"- item {n}" for n in range(400))
    words = "word\n" * 900
    rows = documents(f"# T\n\n{table}\n{items}\n\n{words}")
    assert rows[0].text == table.strip() and rows[1].text == items
    assert all(len(row.text) <= 2_500 for row in rows[2:]) and len(rows) == 4
    monkeypatch.setattr(_markdown, "MOST_WHOLE", 3_000)
    again = documents(f"# T\n\n{table}\n{items}\n\n{words}")
    assert all(len(row.text) <= 4_500 for row in again)
    assert "".join(r.text.replace("\n", "") for r in again) == "".join(
        r.text.replace("\n", "") for r in rows
    )


def test_a_line_that_is_no_text_costs_only_itself(tmp_path):
    (tmp_path / "x.md").write_bytes(
        b"\xef\xbb\xbf# T\n\none\n\xff\ntwo\n\n## S\n\nthree\x00\nfour\n"
    )
    result = read(tmp_path / "x.md", as_documents=True)
    assert [(row.section, row.text) for row in result.rows] == [
        ("", "one"),
        ("", "two"),
        ("S", "four"),
    ]
    assert [(s.line, s.reason) for s in result.set_aside] == [(4, "not_utf8"), (9, "nul_byte")]


@pytest.mark.parametrize("seed", range(40))
def test_no_line_of_text_is_lost_whatever_the_signs(documents, seed):
    rng = random.Random(seed)
    signs = ["- ", "  ", "", "1. ", "> ", "| ", "    "]
    lines, words, fence = ["# Top"], [], False
    for n in range(120):
        kind = rng.random()
        if kind < 0.12 and not fence:
            lines += ["", f"{'#' * rng.randint(1, 6)} head{n}"]
        elif kind < 0.2:
            fence = not fence
            lines.append("```")
        elif kind < 0.4:
            lines.append("")
        else:
            words.append(f"word{n}")
            lines.append(rng.choice(signs) + words[-1])
    found = " ".join(row.text for row in documents("\n".join(lines))).split()
    assert [word for word in found if word.startswith("word")] == words


def test_section_and_page_are_kept_on_every_way(tmp_path):
    row = Document(id="a", group="a", file="f", line=1, title="T", text="x", section="S", page=3)
    assert row_from_json(row_as_json(row)) == row
    assert passages_of([row])[0].shown == "T: S, page 3: x"
    (tmp_path / "x.jsonl").write_text('{"title": "T", "chapter": "S", "page": "3", "text": "x"}\n')
    (back,) = read(tmp_path / "x.jsonl", as_documents=True).rows
    assert (back.title, back.section, back.page) == ("T", "S", 3)
    for page in ('"iv"', "0", "-1", "true", "1.5", "1e300", "[1]"):
        (tmp_path / "x.jsonl").write_text(f'{{"page": {page}, "text": "x"}}\n')
        assert read(tmp_path / "x.jsonl", as_documents=True).rows[0].page is None


def test_markdown_to_learn_from_is_cut_too(tmp_path):
    (tmp_path / "x.md").write_text(PAGE)
    assert [type(row).__name__ for row in read(tmp_path / "x.md").rows] == ["Text"] * 4
    assert curate(Wish(files=(tmp_path / "x.md",)), tmp_path / "out").records == 4
