"""Curation of rows in memory and as a function: what the pipeline does, nothing else."""

from collections import Counter

import polars
import pytest

import domainwright as dw
from domainwright.core.errors import ConfigError, UnknownName
from domainwright.curate.clean import Cleaner
from domainwright.curate.preset import chosen, preset
from domainwright.curate.read import read
from tests.curate.test_pipeline import dirty, lines, rows, write

__all__ = ["dirty"]


def test_rows_in_memory_are_judged_as_in_the_pipeline(dirty, tmp_path):
    dw.curate_files(dirty, tmp_path / "out")
    read_rows = read(dirty)
    cleaned = Cleaner(None, read_rows.rows).cleaned(read_rows.rows)
    dropped = [x for x in lines(tmp_path / "out" / "dropped.jsonl") if x["filter"] != "read"]
    told = [(x.line, x.reason, x.detail) for x in cleaned.set_aside]
    assert told == [(x["line"], x["reason"], x["detail"]) for x in dropped] and told
    # A second row of an id is set aside by `read` and renamed by the pipeline.
    kept = {(row.line, row.answer) for row in read(tmp_path / "out").rows}
    before = {row.line for row in read_rows.rows}
    assert {row.answer for row in cleaned.rows} == {
        answer for _, answer in kept if "id is r5" not in answer and "both are kept" not in answer
    }
    assert cleaned.changes == {"pii": 1} and len(before) == 62


def test_rows_are_kept_or_set_aside_and_copies_stay_where_asked(dirty):
    found = read(dirty).rows
    cleaner = Cleaner("medical", found)
    alone, whole = cleaner.judged(found), cleaner.cleaned(found)
    assert len(alone.rows) + len(alone.set_aside) == len(found)
    assert len(whole.rows) + len(whole.set_aside) == len(found)
    assert Counter(x.reason for x in whole.set_aside) - Counter(
        x.reason for x in alone.set_aside
    ) == {"exact_duplicate": 1}


def test_a_copy_that_goes_is_no_change(tmp_path):
    mail = {"question": "Who is it?", "answer": "Write to ann.lee@example.com today, please."}
    file = write(tmp_path / "x.jsonl", [*rows(20), mail | {"id": "a"}, mail | {"id": "b"}])
    found = read(file).rows
    cleaned = Cleaner(None, found).cleaned(found)
    assert cleaned.changes == {"pii": 1} and [x.id for x in cleaned.set_aside] == ["b"]
    assert Cleaner(None, []).cleaned([]).rows == []
    with pytest.raises(UnknownName, match="no domain"):
        Cleaner("astrology", found)


def test_curating_is_a_function_of_the_package(dirty, tmp_path):
    told = []
    result = dw.curate_files(dirty, tmp_path / "out", domain="medical", listen=told.append)
    table = result.table()
    assert isinstance(table, polars.DataFrame) and told
    assert table["rows"].sum() == result.records + sum(result.changes.values())
    assert {"done": "changed", "filter": None, "reason": "pii", "rows": 1} in table.to_dicts()
    some = dw.curate_files(
        [str(dirty)],
        tmp_path / "out",
        leave_out=["pii"],
        select={"method": "random", "rows": 5},
        fresh=True,
    )
    assert some.kept == 5 and not some.changes
    with pytest.raises(ConfigError, match="no setting 'row'"):
        dw.curate_files(dirty, tmp_path / "x", select={"method": "random", "row": 5})


def test_a_table_of_nothing_done(tmp_path):
    result = dw.curate_files(write(tmp_path / "x.jsonl", rows(8)), tmp_path / "out")
    assert result.table().rows() == [("kept", None, None, 8)]


@pytest.mark.parametrize(
    ("domain", "name", "settings"),
    [
        ("science", "gibberish", {"most_noise": 0.8}),
        ("legal", "boilerplate", {"max_words": 8}),
    ],
)
def test_the_presets_of_the_domains(domain, name, settings):
    found = dict(chosen(preset(domain)))[name]
    assert {key: getattr(found, key) for key in settings} == settings


SCIENCE = (
    r"$$\frac{d}{dx} \int_0^x f(t)\,dt = f(x)$$",
    "H2O, CO2, N2O5, water, heat.",
)


def test_what_science_writes_is_kept_with_its_preset(tmp_path):
    special = [{"id": n, "question": "What is it?", "answer": a} for n, a in enumerate(SCIENCE)]
    found = read(write(tmp_path / "x.jsonl", [*rows(200), *special])).rows
    assert not Cleaner("science", found).judged(found).set_aside
    assert len(Cleaner(None, found).judged(found).set_aside) == len(SCIENCE)
