"""Choosing and making training rows inside a study: never from test rows, and all accounted for."""

import json

import pytest

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.progress import quiet
from domainwright.core.records import Choice
from domainwright.curate.dataset import read_dataset
from domainwright.studies._evidence import losses
from domainwright.studies.ablation import advice, gain
from domainwright.studies.api import decide, plan
from domainwright.studies.data import prepare
from domainwright.studies.study import read_study
from tests.studies import world
from tests.tiny import chat, tiny_base


def prepared(folder, base, rows=None, **data):
    study = read_study(world.study_file(folder, base, rows, data=data))
    return prepare(study, folder / "run")


def ids(rows):
    return [row.id for row in rows]


def test_only_training_rows_are_chosen_and_the_split_stays(tmp_path, base):
    whole = prepared(tmp_path / "whole", base).split
    some = prepared(tmp_path / "some", base, select={"method": "k_center", "rows": 10})
    assert ids(some.split.test) == ids(whole.test) and ids(some.split.dev) == ids(whole.dev)
    assert len(some.split.train) == 10 and set(ids(some.split.train)) <= set(ids(whole.train))
    left = {x.id for x in some.set_aside if x.reason == "not_selected"}
    assert left == set(ids(whole.train)) - set(ids(some.split.train))
    stored = read_dataset(tmp_path / "some/run/dataset")
    assert ids(stored.train) == ids(some.split.train)
    assert {x.id for x in stored.set_aside} == left


@pytest.mark.parametrize("method", ["difficulty", "uncertainty", "perplexity", "influence", "dpp"])
def test_every_source_of_evidence(tmp_path, base, method):
    once = prepared(tmp_path, base, select={"method": method, "rows": 8})
    again = prepared(tmp_path, base, select={"method": method, "rows": 8})
    assert ids(once.split.train) == ids(again.split.train) and len(once.split.train) == 8


@pytest.mark.parametrize("method", ["relevance", "likeness"])
def test_the_documents_are_the_target_unless_another_is_named(tmp_path, base, method):
    wanted = {"method": method, "rows": 6}

    def asked(**data):
        """The numbers of the questions that were chosen: 0 for colours, 2 for shops."""
        return {row.id[-1] for row in prepared(tmp_path, base, **data).split.train}

    with pytest.raises(ConfigError, match=r"data\.documents"):
        asked(select=wanted)
    page = [{"id": "page", "title": "Shops", "text": "Who sells seed? The shop sells it. " * 5}]
    world.write_lines(tmp_path / "pages.jsonl", page)
    assert asked(select=wanted, documents="pages.jsonl") == {"2"}
    (tmp_path / "colours.txt").write_text("What colour is it? It is red, blue or green. " * 5)
    assert asked(select={**wanted, "target": "colours.txt"}, documents="pages.jsonl") == {"0"}


def test_what_was_read_is_not_read_again(tmp_path, base, monkeypatch):
    prepared(tmp_path, base, select={"method": "perplexity", "rows": 8})
    monkeypatch.setattr("domainwright.studies._evidence.score", None)
    prepared(tmp_path, base, select={"method": "perplexity", "rows": 6})
    with pytest.raises(TypeError):
        prepared(tmp_path, base, select={"method": "difficulty", "rows": 6})


def test_choices_are_chosen_by_their_margins():
    base = tiny_base()
    rows = [
        Choice(id=n, group=n, file="f", line=1, question=n, choices=("the", "to", "of"), answer=1)
        for n in ("What is it?", "the patient takes")
    ]
    found = losses(base, rows, quiet)
    assert set(found) == {"losses", "margins"}
    assert set(losses(base, rows, quiet, margins=False)) == {"losses"}
    assert ((found["margins"] >= 0) & (found["margins"] <= 1)).all()


def test_the_loss_alone_is_that_without_the_question():
    base = tiny_base()
    rows = [
        chat("What is warfarin for?", "It thins the blood."),
        chat("Who?", "It thins the blood."),
    ]
    found = losses(base, rows, quiet, alone=True)
    assert found["alone"][0] == found["alone"][1]
    assert found["losses"][0] != found["losses"][1]


def test_plain_text_has_no_difficulty(tmp_path, base):
    with pytest.raises(ConfigError, match="plain text has none"):
        prepared(tmp_path, base, world.texts(), select={"method": "difficulty", "rows": 3})


def test_made_rows_train_and_nothing_else(tmp_path, base):
    whole = prepared(tmp_path / "whole", base).split
    synonyms = tmp_path / "more" / "words.txt"
    synonyms.parent.mkdir()
    synonyms.write_text("colour, hue\ngrow, thrive\nsells, offers\n")
    found = prepared(
        tmp_path / "more",
        base,
        augment={"method": "eda", "copies": 2, "synonyms": "words.txt"},
    )
    assert ids(found.split.test) == ids(whole.test) and ids(found.split.dev) == ids(whole.dev)
    made = [row for row in found.split.train if row.provenance]
    own = {row.id: row for row in found.split.train if not row.provenance}
    assert made and list(own) == ids(whole.train)
    for row in made:
        source = own[row.provenance.source_id]
        assert row.group == source.group and row.answer == source.answer
        assert row.question != source.question
        assert row.provenance.op.startswith("eda ") and row.provenance.model is None
        assert "leak" in row.provenance.filters
    counted = found.sources[-1]
    assert (counted.role, counted.file) == ("augment", "augment 1: eda")
    assert counted.records == 2 * len(own) == len(made) + sum(counted.set_aside.values())
    assert counted.kept == len(made)
    assert read_dataset(tmp_path / "more/run/dataset").train == found.split.train


def test_one_way_to_make_rows_stands_once(tmp_path, base):
    with pytest.raises(ConfigError, match="names one method twice: eda, eda"):
        prepared(tmp_path, base, augment=[{"method": "eda"}, {"method": "eda", "copies": 2}])


def test_a_missing_file_of_synonyms_is_told(tmp_path, base):
    with pytest.raises(DataError, match=r"words\.txt cannot be read"):
        prepared(tmp_path, base, augment={"method": "eda", "synonyms": "words.txt"})


@pytest.mark.usefixtures("quick")
def test_a_study_with_all_three_reaches_its_verdict(tmp_path, base):
    rows = world.questions()
    world.write_lines(tmp_path / "more.jsonl", rows[40:])
    study = world.study_file(
        tmp_path,
        base,
        rows[:40],
        data={
            "train": ["train.jsonl", "more.jsonl"],
            "mix": {"kind": "uniform"},
            "select": {"method": "facility_location", "rows": 20},
            "augment": [{"method": "eda", "ablation": True}],
        },
    )
    verdict = decide(study, tmp_path / "run").verdict
    made = verdict.data.sources[-1]
    assert verdict.data.train == 20 + made.kept
    assert verdict.data.set_aside["not_selected"] == 60 - 20 - (
        verdict.data.test + verdict.data.development
    )
    shown = (tmp_path / "run" / "report.html").read_text()
    assert "augment 1: eda" in shown and "not selected" in shown
    total = sum(s.records for s in verdict.data.sources)
    kept = verdict.data.train + verdict.data.development + verdict.data.test
    assert total == kept + sum(verdict.data.set_aside.values())
    assert (
        json.loads((tmp_path / "run" / "verdict.json").read_text())["data"]["train"]
        == 20 + made.kept
    )
    assert any(r.startswith("An epoch reads") for r in verdict.recommendation.reasons)
    told = [r for r in verdict.recommendation.reasons if "made rows" in r]
    # The mix need not read all of them.
    assert len(told) == 1 and 0 < int(told[0].split()[1]) <= made.kept
    assert "lora, 6 steps with and without" in told[0]
    assert plan(study).steps == 6


def test_the_gain_of_an_ablation_is_paired_and_per_token():
    without = [(f"r{n}", 10.0 + n, 5) for n in range(20)]
    with_made = [(f"r{n}", 9.0 + n, 5) for n in range(20)]
    found = gain(without, with_made, {})
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))
    assert "helped" in advice("lora", 7, 6, found)
    harm = advice("lora", 7, 6, gain(with_made, without, {}))
    assert "did harm: they put 0.200 [0.200, 0.200] nats" in harm
    mixed = [(f"r{n}", 9.0 + n + 2 * (n % 2), 5) for n in range(20)]
    assert "changed nothing" in advice("lora", 7, 6, gain(without, mixed, {}))


def test_the_base_writes_and_what_it_wrote_is_kept(tmp_path, base, monkeypatch):
    """A random base writes nonsense: all of it is set aside, and none is written twice."""
    data = {"augment": {"method": "paraphrase"}, "select": {"method": "random", "rows": 3}}
    first = prepared(tmp_path, base, **data)
    assert (
        first.sources[-1].records
        == 3
        == first.sources[-1].kept + sum(first.sources[-1].set_aside.values())
    )
    monkeypatch.setattr("domainwright.studies._writer.answer", None)
    with pytest.raises(TypeError):
        prepared(tmp_path / "other", base, **data)
    written = next((tmp_path / "run" / "vectors").glob("written-*"))
    assert len(json.loads(written.read_text())) == 3


def test_documents_of_tested_groups_are_not_asked_about(tmp_path, base):
    world.write_lines(
        tmp_path / "documents.jsonl",
        [
            {"id": p, "group": p, "title": p, "text": "the text is about a plant " * 4}
            for p in world.PLANTS
        ],
    )
    found = prepared(
        tmp_path,
        base,
        documents="documents.jsonl",
        augment={"method": "questions"},
    )
    hidden = {row.group for row in (*found.split.test, *found.split.dev)}
    assert found.sources[-1].records == len(world.PLANTS) - len(hidden)
