"""Tagged sentences: read from every usual file, curated without slipping tags, then questions."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from domainwright.cli.main import app
from domainwright.core.errors import ConfigError, DataError
from domainwright.core.records import Extraction, Tagged, Text
from domainwright.curate._cells import Unusable
from domainwright.curate._place import Place
from domainwright.curate._sketch import sketched
from domainwright.curate.augment import AugmentSettings, augment
from domainwright.curate.augmentation import Tools
from domainwright.curate.clean import Cleaner
from domainwright.curate.content import content
from domainwright.curate.copies import copies, key_table
from domainwright.curate.dataset import row_as_json, row_from_json
from domainwright.curate.labelled import as_texts
from domainwright.curate.pipeline import Wish, curate
from domainwright.curate.read import read
from domainwright.curate.readers.tagged import TaggedSentences
from domainwright.curate.tagged import MOST, Kinds, as_extractions, kinds_asked, kinds_of
from domainwright.curate.validity import Against
from domainwright.maths.spans import spans_of
from tests.studies import world


def one(record):
    made = TaggedSentences().row(record, Place("f", "f", 1))
    return made.words, made.tags


def tagged(words, tags, line=1, **changes):
    own = {"id": f"r{line}", "group": f"r{line}", "file": "f.conll", "line": line, **changes}
    return Tagged(**own, words=tuple(words.split(" ")), tags=tuple(tags.split(" ")))


TOOK = ("Take", "aspirin", "daily"), ("O", "B-DRUG", "O")


class TestTags:
    @pytest.mark.parametrize(
        "tags",
        [
            ["O", "B-DRUG", "O"],
            ["O", "I-DRUG", "O"],
            ["O", "S-DRUG", "O"],
            ["O", "U-DRUG", "O"],
            json.dumps(["O", "B-DRUG", "O"]),
            repr(["O", "B-DRUG", "O"]),
        ],
        ids=str,
    )
    def test_schemes_and_packed_cells(self, tags):
        assert one({"tokens": ["Take", "aspirin", "daily"], "tags": tags}) == TOOK

    def test_numbers_with_their_names(self):
        record = {"words": ["Take", "aspirin", "daily"], "ner_tags": [0, 1, 0]}
        assert one(record | {"tag_names": ["O", "B-DRUG"]}) == TOOK

    def test_a_file_of_datasets_brings_the_names_of_its_numbers(self, tmp_path):
        names = {"names": ["O", "B-DRUG"], "_type": "ClassLabel"}
        for number, inner in enumerate(({"feature": names, "_type": "Sequence"}, [names])):
            features = {"tokens": {"_type": "Value"}, "ner_tags": inner}
            told = json.dumps({"info": {"features": features}})
            table = pa.Table.from_pylist([{"tokens": list(TOOK[0]), "ner_tags": [0, 1, 0]}])
            path = tmp_path / f"{number}.parquet"
            pq.write_table(table.replace_schema_metadata({"huggingface": told}), path)
            (row,) = read(path).rows
            assert (row.words, row.tags) == TOOK
        pq.write_table(table.replace_schema_metadata({"huggingface": "[1]"}), path)
        with pytest.raises(DataError, match="add a field tag_names"):
            read(path)

    def test_words_without_a_sign_are_dropped(self):
        place = Place("f", "f", 1)
        record = {"tokens": [" ", "New  York", "\n", "x"], "tags": ["O", "B-X", "O", "O"]}
        made = TaggedSentences().row(record, place)
        assert (made.words, made.tags) == (("New York", "x"), ("B-X", "O"))
        assert place.notes == {"blank_words": 2}

    @pytest.mark.parametrize(
        ("record", "reason"),
        [
            ({"tokens": ["a"]}, "missing_column"),
            ({"tags": ["O"]}, "missing_column"),
            ({"tokens": [], "tags": []}, "empty_sentence"),
            ({"tokens": [" "], "tags": ["O"]}, "empty_sentence"),
            ({"tokens": ["a"], "tags": ["O", "O"]}, "tags_do_not_match"),
            ({"tokens": ["a", " "], "tags": ["O", "B-X"]}, "blank_entity"),
            ({"tokens": ["a"], "tags": ["NOUN"]}, "unknown_tag"),
            ({"tokens": ["a"], "tags": [None]}, "unknown_tag"),
            ({"tokens": ["a"], "tags": [True]}, "unknown_tag"),
            ({"tokens": ["a"], "tags": [1]}, "tags_without_names"),
            ({"tokens": ["a"], "tags": [1], "tag_names": ["O"]}, "unknown_tag"),
            ({"tokens": ["a"], "tags": [-1], "tag_names": ["O"]}, "unknown_tag"),
            ({"tokens": [3], "tags": ["O"]}, "wrong_type"),
            ({"tokens": "a b", "tags": "O O"}, "missing_column"),
        ],
        ids=str,
    )
    def test_what_is_set_aside(self, record, reason):
        with pytest.raises(Unusable) as caught:
            one(record)
        assert caught.value.reason == reason and caught.value.detail


class TestPlaces:
    @pytest.mark.parametrize(
        "spans",
        [
            {"entities": [{"start": 5, "end": 12, "label": "DRUG"}]},
            {"entities": [{"id": 3, "start_offset": 5, "end_offset": 12, "label": "DRUG"}]},
            {"spans": [{"start": 5, "end": 12, "label": "DRUG", "token_start": 1}], "label": "x"},
            {"label": [[5, 12, "DRUG"]]},
            {"labels": [[5, 12, "DRUG"], [5, 12, "DRUG"]]},
            {"entities": [{"start": 4, "end": 13, "labels": ["DRUG"]}]},
        ],
        ids=str,
    )
    def test_spacy_prodigy_and_doccano(self, spans):
        assert one({"text": "Take aspirin daily", **spans}) == TOOK

    def test_words_are_cut_where_an_entity_ends_inside_them(self):
        record = {"text": "non-COVID19s, 2.5mg", "entities": [[4, 9, "D"], [9, 11, "N"]]}
        assert one(record) == (
            ("non", "-", "COVID", "19", "s", ",", "2.5mg"),
            ("O", "O", "B-D", "B-N", "O", "O", "O"),
        )

    @pytest.mark.parametrize(
        ("spans", "reason"),
        [
            ([[0, 4, "A"], [3, 8, "B"]], "overlapping_spans"),
            ([[0, 8, "A"], [3, 5, "B"]], "overlapping_spans"),
            ([[0, 4, "A"], [0, 4, "B"]], "overlapping_spans"),
            ([[4, 4, "A"]], "bad_span"),
            ([[4, 99, "A"]], "bad_span"),
            ([[-2, 3, "A"]], "bad_span"),
            ([[4, 5, "A"]], "bad_span"),  # a space
            ([[0, 4]], "bad_span"),
            ([[0, 4, None]], "bad_span"),
            ([[0, 4, " "]], "bad_span"),
            ([["0", "4", "A"]], "bad_span"),
            ([{"start": 0, "label": "A"}], "bad_span"),
            (["A"], "bad_span"),
        ],
        ids=str,
    )
    def test_what_is_set_aside(self, spans, reason):
        with pytest.raises(Unusable) as caught:
            one({"text": "Take aspirin daily", "entities": spans})
        assert caught.value.reason == reason and caught.value.detail

    @given(st.text(min_size=1, max_size=30), st.data())
    def test_no_entity_is_lost(self, text, data):
        ends = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
        spans = [[a, b, "X"] for a, b in zip(ends[::2], ends[1::2], strict=False)]
        spans = [s for s in spans if text[s[0] : s[1]].strip()]
        if not text.strip():
            return
        words, tags = one({"text": text, "entities": spans})
        assert "".join(words) == "".join(text.split())
        found = ["".join(words[s.start : s.end]) for s in spans_of(tags)]
        assert found == ["".join(text[a:b].split()) for a, b, _ in spans]


CONLL = """# a remark of the file
-DOCSTART- -X- -X- O

Take VB O
aspirin NN I-DRUG
daily RB O

# sentence 2
# NN B-SIGN
1 CD I-SIGN
-DOCSTART- -X- -X- O

word

x NN B-
y NN O

z\tNN\tB-DRUG
"""


class TestConll:
    @pytest.mark.parametrize("ending", ["conll", "bio", "iob", "iob2", "CONLL"])
    def test_sentences_documents_and_remarks(self, tmp_path, ending):
        file = tmp_path / f"a.{ending}"
        file.write_text(CONLL, encoding="utf-8")
        result = read(file)
        assert (result.format, result.records, len(result.rows)) == ("tagged", 5, 3)
        assert (result.rows[0].words, result.rows[0].tags) == TOOK
        assert [row.line for row in result.rows] == [4, 9, 18]
        assert result.rows[1].words == ("#", "1") and result.rows[1].tags == ("B-SIGN", "I-SIGN")
        groups = [row.group for row in result.rows]
        assert groups[0] == groups[1] != groups[2]
        aside = {(x.line, x.reason) for x in result.set_aside}
        assert aside == {(13, "no_tag"), (15, "unknown_tag")}

    def test_without_documents_every_sentence_is_a_group(self, tmp_path):
        file = tmp_path / "a.bio"
        file.write_bytes(b"a\tO\r\n New York \tB-X\r\n\r\nb\tO\r\n")
        first, second = read(file).rows
        assert first.words == ("a", "New York") and first.group != second.group

    def test_a_line_that_is_no_text_costs_its_sentence(self, tmp_path):
        file = tmp_path / "a.iob"
        file.write_bytes(b"a O\n\xff B-X\n\nb I-X\n")
        result = read(file)
        assert [row.tags for row in result.rows] == [("B-X",)]
        assert [(x.line, x.reason) for x in result.set_aside] == [(1, "not_utf8")]


class TestDetection:
    def test_a_sentence_without_entities_is_no_other_format(self, tmp_path):
        records = [{"text": "Take aspirin", "label": [[5, 12, "DRUG"]]}, {"text": "b", "label": []}]
        result = read(world.write_lines(tmp_path / "a.jsonl", records))
        assert [row.tags for row in result.rows] == [("O", "B-DRUG"), ("O",)]

    def test_what_is_something_else(self, tmp_path):
        for name, record in {
            "labelled": {"text": "a b", "label": "good", "tokens": 2},
            "text": {"text": "a b", "entities": "none"},
        }.items():
            assert read(world.write_lines(tmp_path / f"{name}.jsonl", [record])).format == name

    def test_columns_of_the_users_own(self, tmp_path):
        record = {"Wort": ["a"], "Marke": ["B-X"], "tags": ["news"], "tokens": 1}
        file = world.write_lines(tmp_path / "a.jsonl", [record])
        result = read(file, format="tagged", columns={"words": "Wort", "tags": "Marke"})
        assert result.rows[0].tags == ("B-X",)
        assert result.columns == {"words": "Wort", "tags": "Marke"}


ROWS = [
    tagged("Take 5 mg of aspirin at night and 5 mg of it in the morning , please .",
           "O B-DOSE I-DOSE O B-DRUG O O O B-DOSE I-DOSE O O O O O O O O", 1),
    tagged("Ask John Smith , who wrote to me , about all of the other aspirin .",
           "O O O O O O O O O O O O O O B-DRUG O", 2),
    tagged("Write to jane.doe@example.com about the aspirin before you take any more of it .",
           "O O O O O B-DRUG O O O O O O O O", 3),
]  # fmt: skip


class TestCuration:
    def test_exact_copies_and_conflicts(self):
        again = tagged(" ".join(ROWS[0].words), " ".join(ROWS[0].tags), 4)
        other = tagged(" ".join(ROWS[0].words), " ".join(["O"] * 18), 5)
        rows = [*ROWS, again, other]
        found = copies(key_table(rows), sketched([content(row) for row in rows]), rows.__getitem__)
        assert {n: (c.of, c.reason) for n, c in found.items()} == {
            3: (0, "exact_duplicate"),
            4: (0, "conflicting_duplicate"),
        }

    def test_a_repair_keeps_every_word_with_its_tag(self):
        row = tagged("Take donâ€™t aspirin", "O O B-DRUG")
        (kept,) = Cleaner(None, [row]).judged([row]).rows
        assert (kept.words, kept.tags) == (("Take", "don’t", "aspirin"), row.tags)

    def test_what_would_move_words_is_left_or_set_aside(self, tmp_path):
        lines = [{"tokens": r.words, "tags": r.tags} for r in ROWS]
        lines.append({"tokens": ["x", "<p>take", "</p>", "aspirin"], "tags": ["O"] * 3 + ["B-X"]})
        file = world.write_lines(tmp_path / "a.jsonl", lines)
        done = curate(Wish(files=(file,), use=("names", "pii", "html")), tmp_path / "out")
        spoken, mail, marked = read(tmp_path / "out" / "kept.parquet").rows
        assert done.reasons == {"names": {"tags_would_slip": 1}}
        assert mail.words[2] == "[EMAIL_1]" and mail.tags == ROWS[2].tags
        assert marked.words == ("x", "<p>take", "</p>", "aspirin")
        assert spoken.words == ROWS[0].words

    def test_no_rule_makes_rows_of_them(self):
        rows = as_extractions(ROWS, kinds_of(ROWS))
        against = Against(hidden=[], encode=lambda texts: None)
        for name in ("eda", "paraphrase"):
            with pytest.raises(ConfigError, match="extraction"):
                augment(rows, AugmentSettings(method=name), Tools(), against)

    def test_a_dataset_folder_gives_them_back(self):
        for row in (*ROWS, *as_extractions(ROWS, kinds_of(ROWS))):
            assert row_from_json(json.loads(json.dumps(row_as_json(row)))) == row


class TestQuestions:
    def test_every_row_is_asked_for_the_types_of_all(self):
        kinds = kinds_of(ROWS)
        assert kinds == Kinds(("DOSE", "DRUG"))
        found = as_extractions(ROWS, kinds)
        assert {(type(row), row.kinds, row.ask) for row in found} == {
            (Extraction, kinds.names, kinds.ask)
        }
        assert "every DOSE and DRUG in the text" in kinds.ask
        assert found[0].answer == "DOSE: 5 mg\nDRUG: aspirin\nDOSE: 5 mg"
        assert found[0].question == ROWS[0].text and found[0].group == ROWS[0].group
        assert kinds_asked(found) == kinds and kinds_asked(ROWS) is None
        assert kinds_of([]) is None and as_extractions(ROWS, None) == ROWS

    def test_a_text_of_which_nothing_is_known(self):
        row = Kinds(("X",)).question("Take 2.5 mg.")
        assert (row.words, row.answer) == (("Take", "2.5", "mg", "."), "none")
        assert Kinds(("X",)).question(" ").question == " "

    def test_a_type_that_the_run_does_not_know(self):
        with pytest.raises(DataError, match="of the type 'DRUG', and the run knows DOSE"):
            as_extractions(ROWS, Kinds(("DOSE",)))

    def test_none_and_too_many_types(self):
        with pytest.raises(DataError, match="has an entity"):
            kinds_of([tagged("a b", "O O")])
        assert kinds_of([tagged("a b", "O O")], fewest=0) == Kinds(())
        with pytest.raises(DataError, match="101 types"):
            kinds_of([tagged("a", f"B-{n}", n) for n in range(MOST + 1)])

    def test_where_texts_alone_are_wanted(self):
        (text,) = as_texts(ROWS[:1])
        assert isinstance(text, Text) and text.text == ROWS[0].text


def test_the_command_line_shows_them(tmp_path):
    file = tmp_path / "a.conll"
    file.write_text(CONLL, encoding="utf-8")
    base = world.save_base(tmp_path / "base")
    done = CliRunner().invoke(app, ["data", "show", str(file), "--base", str(base), "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["format"], told["kept"]) == ("tagged", 3)
    first = told["rows"][0]
    learned = [t for t, on in zip(first["tokens"], first["supervised"], strict=True) if on]
    assert "".join(learned).startswith("DRUG: aspirin")
    assert "List every DRUG and SIGN" in "".join(first["tokens"])
