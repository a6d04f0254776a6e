"""Files to records: every format, and every way in which a file or a line can be broken."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domainwright.core.errors import DataError
from domainwright.curate._lines import MAX_LINE_BYTES, Record
from domainwright.curate.files import records

GOOD = {"question": "Why?", "answer": "Because."}
LINE = json.dumps(GOOD).encode()


def seen(path):
    """(line, record) or (line, reason), in order."""
    return [
        (item.line, item.data if isinstance(item, Record) else item.reason)
        for item in records(path)
    ]


def made(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"question": "Why', "not_json"),
        (b'{"a": 1} {"b": 2}', "not_json"),
        (b"[" * 200_000, "not_json"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not_json"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not_json"),
        (b'{"a": "\xff"}', "not_utf8"),
        (b'{"a": "\\ud800"}', "not_utf8"),
        (b'{"a": {"b": ["x", "\\uDFFF"]}}', "not_utf8"),
        (b'{"a": "x\x00y"}', "nul_byte"),
        (b'{"a": "x\\u0000y"}', "nul_byte"),
        (b'["a"]', "not_an_object"),
        (b"3", "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"a": 1, "a": 2}', "duplicate_key"),
        (b'{"a": {"b": 1, "b": 1}}', "duplicate_key"),
    ],
    ids=lambda value: value if isinstance(value, str) else ascii(value[:20]),
)
def test_a_broken_line_costs_that_line_only(tmp_path, line, reason):
    path = made(tmp_path, "a.jsonl", b"\n".join([LINE, line, b"", LINE]) + b"\n")
    assert seen(path) == [(1, GOOD), (2, reason), (4, GOOD)]


def test_an_escaped_backslash_is_no_nul(tmp_path):
    path = made(tmp_path, "a.jsonl", b'{"a": "C:\\\\u0000"}\n')
    assert seen(path) == [(1, {"a": "C:\\u0000"})]


def test_a_very_long_line_is_skipped_whole(tmp_path):
    long = b'{"a": "' + b"x" * (2 * MAX_LINE_BYTES + 7) + b'"}'
    path = made(tmp_path, "a.jsonl", b"\n".join([long, LINE]))
    assert seen(path) == [(1, "line_too_long"), (2, GOOD)]


@pytest.mark.parametrize("over", [0, 1, 2])
def test_the_line_after_a_line_just_over_the_limit_is_read(tmp_path, over):
    long = b"x" * (MAX_LINE_BYTES + over)
    path = made(tmp_path, "a.jsonl", b"\n".join([long, LINE]))
    assert seen(path) == [(1, "line_too_long"), (2, GOOD)]


def test_the_longest_line_allowed_is_read(tmp_path):
    text = "x" * (MAX_LINE_BYTES - len('{"a": ""}\n'))
    path = made(tmp_path, "a.jsonl", json.dumps({"a": text}) + "\n")
    assert seen(path) == [(1, {"a": text})]


def test_byte_order_mark_line_ends_and_line_separators(tmp_path):
    text = "a\u2028b\u0085c"
    data = b"\xef\xbb\xbf" + LINE + b"\r\n" + json.dumps({"a": text}, ensure_ascii=False).encode()
    assert seen(made(tmp_path, "a.jsonl", data)) == [(1, GOOD), (2, {"a": text})]


def test_nan_is_an_empty_cell(tmp_path):
    path = made(tmp_path, "a.jsonl", b'{"a": NaN, "b": Infinity}')
    assert seen(path) == [(1, {"a": None, "b": None})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "A.JSONL"])
def test_lines_are_recognised_under_every_name(tmp_path, name):
    assert seen(made(tmp_path, name, LINE + b"\n" + LINE)) == [(1, GOOD), (2, GOOD)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([GOOD, GOOD]),
        json.dumps([GOOD, GOOD], indent=2),
        json.dumps({"data": [GOOD, GOOD]}),
        json.dumps({"version": "1", "tags": ["x"], "rows": [GOOD, GOOD]}, indent=1),
        "\ufeff" + json.dumps([GOOD, GOOD]),
    ],
)
def test_arrays_and_objects_that_hold_one(tmp_path, text):
    assert seen(made(tmp_path, "a.json", text)) == [(1, GOOD), (2, GOOD)]


def test_an_array_under_the_name_jsonl(tmp_path):
    text = json.dumps([GOOD, GOOD], indent=2)
    assert seen(made(tmp_path, "a.jsonl", text)) == [(1, GOOD), (2, GOOD)]


def test_faults_inside_an_array(tmp_path):
    text = b'[{"a": 1}, 7, {"a": 1, "a": 2}, {"a": "\xff"}, {"a": "x\x00"}, {"b": 2}]'
    assert seen(made(tmp_path, "a.json", text)) == [
        (1, {"a": 1}),
        (2, "not_an_object"),
        (3, "duplicate_key"),
        (4, "not_utf8"),
        (5, "nul_byte"),
        (6, {"b": 2}),
    ]


def test_one_conversation_saved_alone_is_one_record(tmp_path):
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert seen(made(tmp_path, "a.json", json.dumps(chat))) == [(1, chat)]


def test_lines_in_a_json_file_whose_first_line_is_broken(tmp_path):
    path = made(tmp_path, "a.json", b'{"a": \n' + LINE)
    assert seen(path) == [(1, "not_json"), (2, GOOD)]


@pytest.mark.parametrize("text", ["{", "[1, 2", '"text"', '{"a": [{}], "b": [{}]}'])
def test_a_broken_json_file_is_an_error(tmp_path, text):
    with pytest.raises(DataError):
        list(records(made(tmp_path, "a.json", text)))


def test_csv_with_quotes_newlines_and_wrong_rows(tmp_path):
    data = (
        b'question,answer\r\n"Why, then?","line one\nline two"\r\n\r\n'
        b'only one\na,b,c\nbad \xff,x\nnul \x00,x\n"said ""yes""",no\n'
    )
    assert seen(made(tmp_path, "a.csv", data)) == [
        (2, {"question": "Why, then?", "answer": "line one\nline two"}),
        (5, "wrong_cell_count"),
        (6, "wrong_cell_count"),
        (7, "not_utf8"),
        (8, "nul_byte"),
        (9, {"question": 'said "yes"', "answer": "no"}),
    ]


def test_a_quote_that_never_closes_is_not_swallowed_in_silence(tmp_path):
    assert seen(made(tmp_path, "a.csv", 'q,a\n1,2\n3,"open\n5,6\n')) == [
        (2, {"q": "1", "a": "2"}),
        (3, "open_quote"),
    ]


def test_text_after_a_closing_quote_costs_its_row(tmp_path):
    assert seen(made(tmp_path, "a.csv", 'q,a\n"1"x,2\n3,4\n')) == [
        (2, "not_csv"),
        (3, {"q": "3", "a": "4"}),
    ]


def test_a_cell_may_be_longer_than_the_csv_module_likes(tmp_path):
    text = "word " * 50_000
    assert seen(made(tmp_path, "a.csv", f"q,a\n1,{text}\n")) == [(2, {"q": "1", "a": text})]


def test_a_csv_row_over_the_limit(tmp_path):
    half = b"x" * (MAX_LINE_BYTES // 2 + 10)
    data = b"q,a\n" + half + b"," + half + b"\n" + b"x" * MAX_LINE_BYTES + b"yz,1\n1,2\n"
    assert seen(made(tmp_path, "a.csv", data)) == [
        (2, "line_too_long"),
        (3, "line_too_long"),
        (4, {"q": "1", "a": "2"}),
    ]


@pytest.mark.parametrize(("name", "sign"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_other_delimiters(tmp_path, name, sign):
    text = f'\ufeffquestion{sign}answer\nWhy, so?{sign}"No; never"\n'
    assert seen(made(tmp_path, name, text)) == [
        (2, {"question": "Why, so?", "answer": "No; never"})
    ]


def test_a_column_twice_is_an_error(tmp_path):
    with pytest.raises(DataError, match="column 'a' twice"):
        list(records(made(tmp_path, "a.csv", "a,b,a\n1,2,3\n")))


def test_the_index_column_of_pandas_has_a_name(tmp_path):
    assert seen(made(tmp_path, "a.csv", ",q\n0,x\n")) == [(2, {"unnamed_1": "0", "q": "x"})]


def test_parquet_with_nested_values(tmp_path):
    rows = [{"m": [{"role": "user", "content": "x"}], "n": 1}, {"m": None, "n": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert seen(tmp_path / "a.parquet") == [(1, rows[0]), (2, rows[1])]


def test_parquet_with_bytes_that_are_no_text(tmp_path):
    bad = pa.array([b"ok", b"\xff", b"x\x00"], type=pa.binary()).view(pa.string())
    pq.write_table(pa.table({"a": bad}), tmp_path / "a.parquet")
    assert seen(tmp_path / "a.parquet") == [(1, {"a": "ok"}), (2, "not_utf8"), (3, "nul_byte")]


def test_a_damaged_parquet_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(records(made(tmp_path, "a.parquet", b"PAR1 and then nothing")))


def test_paragraphs_are_joined_to_blocks(tmp_path):
    small, large = "s" * 900, "l" * 1900
    text = f"\n\n{small}\n{small[:50]}\n\n  \n{small}\n\n{large}\n"
    assert seen(made(tmp_path, "a.txt", text)) == [
        (3, {"text": f"{small}\n{small[:50]}\n\n{small}"}),
        (9, {"text": large}),
    ]


def test_a_paragraph_over_the_limit_is_cut_between_lines(tmp_path):
    lines = [f"{n} " + "x" * 700 for n in range(5)]
    found = seen(made(tmp_path, "a.md", "\n".join(lines)))
    assert [line for line, _ in found] == [1, 3, 5]
    assert "\n".join(data["text"] for _, data in found) == "\n".join(lines)


def test_a_bad_line_of_text_is_set_aside_alone(tmp_path):
    path = made(tmp_path, "a.txt", b"one\nbad \xff\nthree\nnul \x00\n")
    assert seen(path) == [
        (1, {"text": "one"}),
        (2, "not_utf8"),
        (3, {"text": "three"}),
        (4, "nul_byte"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.ndjson.gz"])
def test_gzip(tmp_path, name):
    assert seen(made(tmp_path, name, gzip.compress(LINE + b"\n" + LINE))) == [(1, GOOD), (2, GOOD)]


def test_gzip_of_a_table_and_of_text(tmp_path):
    assert seen(made(tmp_path, "a.csv.gz", gzip.compress(b"q\nx\n"))) == [(2, {"q": "x"})]
    assert seen(made(tmp_path, "a.txt.gz", gzip.compress(b"x\n"))) == [(1, {"text": "x"})]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no gzip at all"])
def test_a_damaged_gzip_file_is_an_error(tmp_path, damage):
    data = gzip.compress(b"\n".join([LINE] * 1000))
    with pytest.raises(DataError, match="not a complete gzip file"):
        list(records(made(tmp_path, "a.jsonl.gz", damage(data))))


def test_files_that_cannot_be_read_at_all(tmp_path):
    made(tmp_path, "answers.jsonl", LINE)
    cases = {
        "answer.jsonl": "answers.jsonl",
        "nowhere/x.jsonl": "does not exist either",
        "": "is a folder",
    }
    for name, message in cases.items():
        with pytest.raises(DataError, match=message):
            records(tmp_path / name)
    for name, data in {"a.xlsx": b"PK", "a": b"x", "a.parquet.gz": b"x"}.items():
        with pytest.raises(DataError, match=r"\.jsonl, \.ndjson, \.json, \.csv"):
            records(made(tmp_path, name, data))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.gz"])
@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_an_empty_file_is_an_error(tmp_path, name, data):
    data = gzip.compress(data) if name.endswith(".gz") else data
    with pytest.raises(DataError):
        list(records(made(tmp_path, name, data)))


def test_utf16_is_named(tmp_path):
    with pytest.raises(DataError, match="UTF-16"):
        list(records(made(tmp_path, "a.csv", "q,a\n1,2\n".encode("utf-16"))))


@pytest.mark.parametrize("seed", range(40))
def test_no_bytes_crash_a_reader_of_lines(tmp_path, seed):
    """Random damage: every line that is not blank gives a record or a fault."""
    rng = random.Random(seed)
    lines = []
    for _ in range(30):
        line = bytearray(LINE)
        for _ in range(rng.choice([0, 0, 1, 3])):
            line[rng.randrange(len(line))] = rng.choice([0, 34, 92, 123, 200, 255, 44, 93])
        lines.append(bytes(line).replace(b"\n", b""))
    found = seen(made(tmp_path, "a.jsonl", b"\n".join(lines)))
    assert [number for number, _ in found] == list(range(1, 31))
    for number, what in found:
        if lines[number - 1] == LINE:
            assert what == GOOD
