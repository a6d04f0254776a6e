"""Texts with a label: read under every usual name, then multiple choice with the same choices."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from domainwright.cli.main import app
from domainwright.core.errors import DataError
from domainwright.core.records import Choice, Labelled, Text
from domainwright.curate._cells import Unusable
from domainwright.curate._place import Place
from domainwright.curate.labelled import (
    ASK,
    MANY,
    MOST,
    LabelSet,
    as_choices,
    as_texts,
    label_set,
    label_set_of,
)
from domainwright.curate.labels import hashed_words, label_errors
from domainwright.curate.pipeline import Wish, curate
from domainwright.curate.read import read, read_all
from domainwright.curate.readers.labelled import LabelledTexts
from tests.curate.test_labels import KINDS, cases
from tests.studies import world

SAYS = ("profits rose in spring", "profits fell in autumn", "the board met on Monday")


def row(text, label, line=1, **changes):
    own = {"id": f"r{line}", "group": f"r{line}", "file": "f.csv", "line": line, **changes}
    return Labelled(**own, text=text, label=label)


def write_csv(path, header, lines):
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


class TestReading:
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("premise", "hypothesis"),
            ("sentence1", "sentence2"),
            ("text_a", "text_b"),
            ("question1", "question2"),
            ("passage", "question"),
            ("context", "question"),
            ("claim", "evidence"),
            ("Document", "Query"),
        ],
    )
    def test_two_texts_with_one_label(self, tmp_path, first, second):
        lines = ["it rose,did it rise,yes", "it fell,did it rise,no"]
        result = read(write_csv(tmp_path / "a.csv", f"{first},{second},label", lines))
        assert result.format == "labelled" and not result.set_aside
        names = [name.replace("_", " ").capitalize() for name in (first, second)]
        assert [(r.text, r.label) for r in result.rows] == [
            (f"{names[0]}: it rose\n{names[1]}: did it rise", "yes"),
            (f"{names[0]}: it fell\n{names[1]}: did it rise", "no"),
        ]
        assert (result.columns["text"], result.columns["second"]) == (first, second)

    @pytest.mark.parametrize(
        ("columns", "wanted"),
        [
            ({"text": "premise"}, "it rose"),
            ({"text": "hypothesis", "second": "premise"}, "Text: yes it did\nSecond: it rose"),
        ],
    )
    def test_columns_name_one_text_or_two(self, tmp_path, columns, wanted):
        file = write_csv(tmp_path / "a.csv", "premise,hypothesis,label", ["it rose,yes it did,1"])
        (found,) = read_all([{"path": str(file), "columns": columns}])
        assert [r.text for r in found.rows] == [wanted]

    @pytest.mark.parametrize(
        ("header", "lines", "told"),
        [
            (
                "Anliegen,Art",
                [f"wo ist meine Karte {n},{'abc'[n % 3]}" for n in range(12)],
                "format: labelled, columns: {text: Anliegen, label: Art}}",
            ),
            (
                "no,Frage,Antwort",
                [f"{n},was ist Gicht {n},eine Krankheit der Gelenke {n}" for n in range(12)],
                "format: prompt_completion, columns: {question: Frage, answer: Antwort}}",
            ),
            (
                "no,Bericht",
                [f"{n},der Patient klagt über Schmerzen {n}" for n in range(12)],
                "format: text, columns: {text: Bericht}}",
            ),
            ("x,y", ["1,2"] * 4, "columns: {question: COLUMN, answer: COLUMN}}"),
        ],
    )
    def test_unknown_columns_are_guessed_at(self, tmp_path, header, lines, told):
        with pytest.raises(DataError) as raised:
            read(write_csv(tmp_path / "a.csv", header, lines))
        assert told in raised.value.fix

    def test_a_second_text_that_is_empty_is_set_aside(self, tmp_path):
        lines = ["it rose,,yes", "it fell,did it rise,no"]
        result = read(write_csv(tmp_path / "a.csv", "premise,hypothesis,label", lines))
        assert [x.reason for x in result.set_aside] == ["empty_text"]

    @pytest.mark.parametrize(
        "columns",
        [
            *((text, "label") for text in ("text", "sentence", "content", "document", "clause")),
            *(("text", label) for label in ("sentiment", "category", "class", "intent", "labels")),
            *(("Message", "Intent"), ("question", "label"), ("Description", "Category")),
            ("Note", "Label Text"),
        ],
        ids=str,
    )
    def test_the_usual_columns_of_a_table(self, tmp_path, columns):
        file = write_csv(tmp_path / "a.csv", ",".join(columns), ["it rose,good", "it fell,bad"])
        result = read(file)
        assert result.format == "labelled"
        assert [(r.text, r.label) for r in result.rows] == [("it rose", "good"), ("it fell", "bad")]
        assert result.columns["text"] == columns[0] and result.columns["label"] == columns[1]

    def test_lines_and_parquet(self, tmp_path):
        records = [{"text": t, "label": n} for n, t in enumerate(SAYS)]
        pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
        world.write_lines(tmp_path / "a.jsonl", records)
        for name in ("a.parquet", "a.jsonl"):
            assert [r.label for r in read(tmp_path / name).rows] == ["0", "1", "2"]

    @pytest.mark.parametrize(
        ("label", "kept"),
        [
            *((" good ", "good"), (3, "3"), (0, "0"), (1.0, "1"), (True, "true"), (["a"], "a")),
            (False, "false"),
        ],
        ids=str,
    )
    def test_what_a_label_may_be(self, label, kept):
        read_row = LabelledTexts().row({"text": "a", "label": label}, Place("f", "f", 1))
        assert read_row.label == kept

    @pytest.mark.parametrize(
        ("record", "reason"),
        [
            ({"text": "a"}, "missing_column"),
            ({"label": "good"}, "missing_column"),
            ({"text": "a", "label": None}, "empty_label"),
            ({"text": "a", "label": " "}, "empty_label"),
            ({"text": "a", "label": float("nan")}, "empty_label"),
            ({"text": " ", "label": "good"}, "empty_text"),
            ({"text": 7.5, "label": {"good": 1}}, "wrong_type"),
            ({"text": "a", "label": 0.37}, "wrong_type"),
            ({"text": "a", "label": []}, "empty_label"),
            ({"text": "a", "label": ["a", "b"]}, "several_labels"),
        ],
        ids=str,
    )
    def test_what_is_no_label(self, record, reason):
        with pytest.raises(Unusable) as caught:
            LabelledTexts().row(record, Place("f", "f", 1))
        assert caught.value.reason == reason and caught.value.detail

    def test_a_label_in_words_wins_over_its_number_and_the_user_over_both(self, tmp_path):
        record = {"text": "a", "label": 1, "label_text": "good", "mood": "glad"}
        file = world.write_lines(tmp_path / "a.jsonl", [record])
        assert read(file).rows[0].label == "good"
        assert read(file, columns={"label": "mood"}).rows[0].label == "glad"
        named = read(file, columns={"text": "label_text", "label": "mood"}).rows[0]
        assert (named.text, named.label) == ("good", "glad")

    def test_rows_without_a_label_are_set_aside(self, tmp_path):
        file = write_csv(tmp_path / "a.csv", "text,label", ["it rose,good", "it fell,"])
        result = read(file)
        assert [(x.line, x.reason) for x in result.set_aside] == [(3, "empty_label")]

    def test_the_text_alone_is_read_where_the_user_says_so(self, tmp_path):
        file = write_csv(tmp_path / "a.csv", "text,label", ["it rose,good"])
        assert isinstance(read(file, format="text").rows[0], Text)


class TestChoices:
    def test_every_row_gets_all_labels_in_alphabetical_order(self):
        other = Text(id="t", group="t", file="f", line=9, text="plain")
        rows = [row("a", "up", 1, group="g", date="2024-05-31", topic="x"), row("b", "down", 2)]
        first, plain, second = as_choices([rows[0], other, rows[1]], label_set(rows))
        assert plain is other
        assert (first.question, first.choices, first.answer) == ("a", ("down", "up"), 1)
        assert (second.question, second.answer, second.context) == ("b", 0, "")
        assert (first.id, first.group, first.date, first.topic) == ("r1", "g", "2024-05-31", "x")
        assert first.ask == ASK == "Which label fits this text?"

        many = [row("a", name, n) for n, name in enumerate("hgfedcba", 1)]
        assert label_set(many).names == tuple("abcdefgh")

    def test_without_labelled_rows_nothing_changes(self):
        plain = [Text(id="t", group="t", file="f", line=9, text="plain")]
        assert label_set(plain) is None
        assert as_choices(plain, None) == plain

    def test_the_labels_of_a_run_are_kept(self):
        made = as_choices([row("a", "up"), row("b", "down", 2)], LabelSet(("down", "up"), "Which?"))
        known = label_set_of(made)
        assert known == LabelSet(("down", "up"), "Which?")
        (again,) = as_choices([row("c", "up", 3)], known)
        assert again.choices == ("down", "up") and again.ask == "Which?"
        with pytest.raises(DataError, match=r"f\.csv, line 3, has the label 'sideways'"):
            as_choices([row("c", "sideways", 3)], known)
        other = Choice(**AT, question="q", choices=("a", "b"), answer=0)
        assert label_set_of([made[0], other]) is None
        assert label_set_of([]) is None

    def test_one_label_is_no_question(self):
        rows = [row(text, "good", n) for n, text in enumerate(SAYS, 1)]
        with pytest.raises(DataError, match="All 3 labelled rows have the label 'good'"):
            label_set(rows)
        assert label_set(rows, fewest=1).names == ("good",)

    def test_an_id_is_no_label(self):
        rows = [row(f"text {n}", f"case-{n}", n) for n in range(1, 2001)]
        with pytest.raises(DataError, match="2,000 labels in 2,000 rows") as caught:
            label_set(rows)
        assert "format: text" in caught.value.fix
        with pytest.raises(DataError, match="60 labels in 60 rows"):
            label_set(rows[:60])
        assert len(label_set(rows[:MANY]).names) == MANY
        assert len(label_set([*rows[:60], *rows[:60]]).names) == 60
        often = [row(f"text {n}", f"intent {n % (MOST + 1)}", n) for n in range(4 * MOST)]
        with pytest.raises(DataError, match=f"{MOST + 1} labels in {4 * MOST} rows"):
            label_set(often)

    def test_general_texts_stay_texts(self):
        found = as_texts([row("a", "up"), row("b", "down", 2)])
        assert [(type(r), r.text, r.id) for r in found] == [(Text, "a", "r1"), (Text, "b", "r2")]


AT = {"id": "c", "group": "c", "file": "f", "line": 1}


def test_doubted_labels_of_a_table(tmp_path):
    """The rows of the test for multiple choice, as a file of texts and labels."""
    rows, wrong = cases(120)
    asked = [
        row(r.question, r.choices[r.answer], n, id=r.id, group=r.group) for n, r in enumerate(rows)
    ]
    found, want = (label_errors(these, encode=hashed_words) for these in (asked, rows))
    assert found.labels == list(KINDS) and found.counts == want.counts
    assert [s.id for s in found.suspects] == [s.id for s in want.suspects]
    records = [{"id": r.id, "group": r.group, "text": r.text, "label": r.label} for r in asked]
    file = world.write_lines(tmp_path / "rows.jsonl", records)
    done = CliRunner().invoke(app, ["data", "labels", str(file), "--json"])
    assert done.exit_code == 0, done.stderr
    assert {s["id"] for s in json.loads(done.stdout)["suspects"]} & wrong


def test_curation_keeps_text_and_label(tmp_path):
    lines = [
        *(f"Revenue of plant number {n} rose by {n} per cent,good" for n in range(12)),
        "Write to ann.lee@example.com about the losses of the winter,bad",
        "Revenue of plant number 3 rose by 3 per cent,good",
        "Revenue of plant number 4 rose by 4 per cent,bad",
        "a text without any label,",
    ]
    file = write_csv(tmp_path / "a.csv", "text,label", lines)
    result = curate(Wish(files=(file,)), tmp_path / "out")
    assert result.reasons["copies"] == {"exact_duplicate": 1, "conflicting_duplicate": 1}
    assert result.reasons["read"] == {"empty_label": 1}
    back = read(tmp_path / "out" / "kept.parquet")
    assert (back.format, back.records, len(back.rows)) == ("labelled", 13, 13)
    by_line = {r.line: r for r in read(file).rows}
    kept = pq.read_table(tmp_path / "out" / "kept.parquet").to_pylist()
    for record, again in zip(kept, back.rows, strict=True):
        before = by_line[record["source_line"]]
        assert (again.id, again.group, again.label) == (before.id, before.group, before.label)
        assert again.text == before.text or "[EMAIL_1]" in again.text
    assert sum("[EMAIL_1]" in r.text for r in back.rows) == 1


def test_nearly_the_same_text_with_another_label_is_a_lesson(tmp_path):
    said = "The tenant shall pay the rent on the first day of every month to the landlord"
    same, other = f"{said} in full,duty", f"{said} in cash,right"
    file = write_csv(tmp_path / "a.csv", "clause,label", [f"{said},duty", same, other])
    result = curate(Wish(files=(file,)), tmp_path / "out")
    assert result.reasons == {"copies": {"near_duplicate": 1}} and result.kept == 2
    assert [r.label for r in read(tmp_path / "out" / "kept.parquet").rows] == ["duty", "right"]


def test_the_verb_shows_what_is_asked(tmp_path):
    file = write_csv(tmp_path / "a.csv", "text,label", [f"{said},{said[-6:]}" for said in SAYS])
    done = CliRunner().invoke(app, ["data", "show", str(file), "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["format"], told["kept"]) == ("labelled", 3)
    whole = "".join(told["rows"][0]["tokens"])
    assert whole.startswith(f"{ASK}\nText: ")
    assert whole.endswith("profits rose in spring\nLabel: spring")
    marks = told["rows"][0]["supervised"]
    answer = [t for t, on in zip(told["rows"][0]["tokens"], marks, strict=True) if on]
    assert "".join(answer) == " spring"
    ids = write_csv(tmp_path / "b.csv", "text,label", [f"t{n},id{n}" for n in range(300)])
    refused = CliRunner().invoke(app, ["data", "show", str(ids)])
    assert refused.exit_code == 3 and "format: text" in refused.stderr
    read_as_text = CliRunner().invoke(app, ["data", "show", str(ids), "--format", "text"])
    assert read_as_text.exit_code == 0
    one = write_csv(tmp_path / "c.csv", "text,label", ["a,good", "b,good"])
    assert CliRunner().invoke(app, ["data", "show", str(one)]).exit_code == 0
