"""A table of texts and labels through a whole study: every way that multiple choice has works."""

import csv
import json

import pytest
from typer.testing import CliRunner

from domainwright.cli.main import app
from domainwright.core.errors import DataError
from domainwright.core.records import Choice, Text
from domainwright.curate.dataset import read_dataset
from domainwright.curate.labelled import ASK
from domainwright.models.forms import choice_prompt
from domainwright.studies._asked import as_asked, prompters_of
from domainwright.studies._exam import suite_of
from domainwright.studies._replay import replay_rows
from domainwright.studies._scorecards import read_items
from domainwright.studies.api import decide, load_run, plan, train_method
from domainwright.studies.data import prepare
from domainwright.studies.refine.proposal import offered
from domainwright.studies.refine.source import open_source
from domainwright.studies.score import score_file
from domainwright.studies.study import read_study
from tests.studies.test_asked import pytestmark as needs_embedded
from tests.studies.world import PLANTS, questions, small_suite, study_file, write_lines
from tests.tiny import tiny_base

KINDS = ("colour", "place", "price")
SAID = ("the {} is red in spring", "the {} grows by the water", "a {} is sold for two coins")


def table(path, plants=PLANTS, kinds=range(3), header=("group", "text", "label")):
    """Three texts of every plant, one of each kind, as a CSV file."""
    lines = [(plant, SAID[kind].format(plant), KINDS[kind]) for plant in plants for kind in kinds]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def study(folder, base, **changes):
    folder.mkdir()
    table(folder / "train.csv")
    data = {"train": "train.csv", **changes.pop("data", {})}
    file = study_file(folder, base, data=data, **changes)
    (folder / "train.jsonl").unlink()  # of other tests
    return file


HEADED = {
    "strategies": ["zero_shot", "lora"],
    "train": {"head": True, "steps": 24, "batch": 8, "learning_rate": 0.02},
    "evaluate": {"items": 12},
    "prices": {"right": 1.0, "errors": {"colour": {"price": 9.0}}},
}


def prompts_of(run, name):
    folder = run / "trials" / name / "scorecard"
    parents = json.loads((folder / "manifest.json").read_text())["parents"]
    return read_items(folder, parents, "items.jsonl")


@pytest.fixture(scope="module")
def headed(tmp_path_factory, base):
    """A decided study whose method trains a head: (folder of the run, verdict)."""
    folder = tmp_path_factory.mktemp("labelled")
    with pytest.MonkeyPatch.context() as patch:
        small_suite(patch)
        decided = decide(study(folder / "study", base, **HEADED), folder / "run")
    return folder / "run", decided.verdict


def test_a_head_learns_the_labels_and_likelihood_scores_them(headed):
    run, verdict = headed
    by_name = {r.name: r for r in verdict.strategies}
    assert {r.status for r in by_name.values()} == {"done"}
    assert (verdict.task, verdict.data.sources[0].format) == ("choices", "labelled")
    assert by_name["lora"].score.mean >= 0.75
    # Three labels of equal share: whichever is named, a third of the items has it.
    assert set(verdict.constant.answers.values()) < set(KINDS)
    assert verdict.constant.score.mean == pytest.approx(1 / 3, abs=0.2)
    assert verdict.constant.leads["lora"].low > 0
    items = prompts_of(run, "lora")
    assert {x.reference for x in items} == set(KINDS)
    assert {x.tokens_out for x in items} == {0}  # the head answered
    assert {x.reply for x in prompts_of(run, "zero_shot")} <= set(KINDS)
    assert verdict.costs is not None and by_name["lora"].answered
    rows = read_dataset(run / "dataset").train
    assert {(r.choices, r.ask) for r in rows} == {(KINDS, ASK)}


def test_a_run_is_asked_about_a_file_with_some_of_its_labels(headed, tmp_path):
    run, _ = headed
    few = table(tmp_path / "few.csv", ("aster", "clover", "violet"), kinds=(0, 2))
    done = CliRunner().invoke(app, ["evaluate", str(run), "--data", str(few), "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["task"], told["items"]) == ("choices", 6)
    if told["strategy"] == "lora":
        assert told["mean"] >= 0.6
    one = table(tmp_path / "one.csv", ("aster",), kinds=(1,))
    assert score_file(str(run), one, items=9, new_tokens=2)["items"] == 1
    strange = tmp_path / "strange.csv"
    strange.write_text("text,label\nit is blue,hue\n")
    with pytest.raises(DataError, match="'hue', and the run knows colour, place, price"):
        score_file(str(run), strange, items=9, new_tokens=2)


def test_a_base_is_asked_about_the_labels_of_the_file(base, tmp_path):
    file = table(tmp_path / "a.csv", PLANTS[:4], header=("group", "clause", "category"))
    found = score_file(str(base), file, items=5, new_tokens=2)
    assert (found["task"], found["items"]) == ("choices", 5)
    one = table(tmp_path / "one.csv", PLANTS[:4], kinds=(1,))
    with pytest.raises(DataError, match="have the label 'place'"):
        score_file(str(base), one, items=5, new_tokens=2)


def test_new_rows_of_a_refined_run_have_its_labels(headed, tmp_path):
    run, verdict = headed
    source = open_source(run, "lora", lambda step: None)
    more = table(tmp_path / "more.csv", ("aster", "clover"), kinds=(0, 1))
    offer = offered([more], source.data, source.study)
    assert {(r.choices, r.ask) for r in offer.rows} == {(KINDS, ASK)} and len(offer.rows) == 4
    assert verdict.name == "study"


@needs_embedded[0]
@needs_embedded[1]
@pytest.mark.usefixtures("quick")
def test_every_strategy_of_multiple_choice(base, tmp_path):
    changes = {
        "strategies": ["zero_shot", "instructed", "few_shot", "rag", "lora"],
        "data": {
            "documents": "pages.jsonl",
            "curate": True,
            "select": {"method": "uncertainty", "rows": 30},
            "augment": {"method": "eda", "copies": 1, "synonyms": "words.txt"},
        },
    }
    file = study(tmp_path / "study", base, **changes)
    write_lines(file.parent / "pages.jsonl", [{"title": p, "text": f"On {p}."} for p in PLANTS])
    (file.parent / "words.txt").write_text("red, crimson\nsold, offered\ngrows, thrives\n")
    assert plan(file).run_of("lora").fits
    decided = decide(file, tmp_path / "run")
    assert [(r.name, r.status) for r in decided.strategies] == [
        (name, "done") for name in changes["strategies"]
    ]
    made = [r for r in read_dataset(tmp_path / "run" / "dataset").train if r.provenance]
    assert made and {(r.choices, r.ask) for r in made} == {(KINDS, ASK)}
    run = load_run(tmp_path / "run", "few_shot")
    row = read_dataset(tmp_path / "run" / "dataset").test[0]
    shown = run.prompter.prompt(row).text
    assert shown.startswith(f"{ASK}\nText: ") and shown.count(ASK) == 1
    assert shown.count("\nLabel: ") == 4 and shown.endswith(choice_prompt(row))
    assert choice_prompt(row) == f"Text: {row.question}\nLabel:"


def prepared(tmp_path, base, **changes):
    return prepare(read_study(study(tmp_path / "study", base, **changes)), tmp_path / "run")


class TestTheRows:
    def test_a_study_may_ask_in_its_own_words(self, tmp_path, base):
        own = {"prompting": {"instruction": "Colour, place or price?"}}
        assert {r.ask for r in prepared(tmp_path, base, **own).split.train} == {""}

    def test_a_domain_does_not_ask_for_labels(self, tmp_path, base):
        assert {r.ask for r in prepared(tmp_path, base, domain="legal").split.train} == {ASK}

    def test_all_files_give_labels_and_the_verdict_says_which_cannot_be_learned(
        self, tmp_path, base
    ):
        (tmp_path / "study").mkdir()
        file = study_file(tmp_path / "study", base, data={"train": "a.csv", "test": "b.csv"})
        table(file.parent / "a.csv", PLANTS[:15], kinds=(0, 1))
        table(file.parent / "b.csv", PLANTS[15:])
        data = prepare(read_study(file), tmp_path / "run")
        everyone = [*data.split.train, *data.split.dev, *data.split.test]
        assert {r.choices for r in everyone} == {KINDS}
        assert data.notes == (
            "5 test rows have labels that no training row has: 'price' (5). "
            "No method could learn them.",
        )

    def test_many_labels_are_said(self, tmp_path, base):
        rows = [
            {"id": f"{n}", "text": f"{plant} is of the kind number {n}", "label": f"kind {n % 60}"}
            for n, plant in enumerate(PLANTS * 9)
        ]
        file = study_file(tmp_path / "study", base, rows)
        data = prepare(read_study(file), tmp_path / "run")
        assert {len(r.choices) for r in data.split.train} == {60}
        assert any("There are 60 labels, and the likelihood" in x for x in data.notes)

    @pytest.mark.parametrize(
        ("rows", "told"),
        [
            ([{"text": f"text {n}", "label": "same"} for n in range(9)], "have the label 'same'"),
            ([{"text": f"text {n}", "label": f"id-{n}"} for n in range(500)], "There are 500 lab"),
        ],
        ids=["one", "ids"],
    )
    def test_what_is_no_label_is_refused_and_can_be_read_as_text(self, tmp_path, base, rows, told):
        file = study_file(tmp_path / "study", base, rows)
        with pytest.raises(DataError, match=told) as caught:
            prepare(read_study(file), tmp_path / "run")
        assert "format: text" in caught.value.fix
        told_so = "[{path: train.jsonl, format: text}]"
        again = read_study(file, [f"data.train={told_so}"])
        assert prepare(again, tmp_path / "again").task == "texts"

    def test_labelled_and_other_rows_do_not_mix(self, tmp_path, base):
        (tmp_path / "study").mkdir()
        file = study_file(
            tmp_path / "study", base, questions(), data={"train": ["train.jsonl", "a.csv"]}
        )
        table(file.parent / "a.csv")
        with pytest.raises(DataError, match="several kinds of rows: chat, choice"):
            prepare(read_study(file), tmp_path / "run")


@pytest.mark.usefixtures("quick")
def test_where_general_texts_are_wanted_the_labels_are_left_out(tmp_path, base):
    """A corpus of news with a category each: it was read as texts before, and still is."""
    file = study_file(
        tmp_path / "study",
        base,
        evaluate={"retention": ["news.csv"]},
        train={"replay": {"share": 0.2, "source": "news.csv"}},
    )
    table(file.parent / "news.csv", header=("group", "text", "category"))
    settings = read_study(file)
    suite = suite_of(settings)
    assert len(suite.texts) == 66 and not any(isinstance(r, Choice) for r in suite.texts)
    assert all(isinstance(r, Text) for r in suite.texts)
    rows, aside, _ = replay_rows(tiny_base(), settings.train, [], 200, tmp_path)
    assert len(rows) == 60 and not aside


@pytest.mark.usefixtures("quick")
def test_one_method_alone(tmp_path, base):
    file = study(tmp_path / "study", base, train={"head": True})
    train_method(file, "lora", tmp_path / "run")
    found = score_file(str(tmp_path / "run"), file.parent / "train.csv", items=9, new_tokens=2)
    assert (found["strategy"], found["items"]) == ("adapter", 9)


def test_methods_are_trained_as_they_are_asked(tmp_path, base):
    settings = read_study(study(tmp_path / "study", base))
    data, tiny = prepare(settings, tmp_path / "run"), tiny_base()
    prompters = prompters_of(settings, tiny, data, tmp_path / "run")
    found = as_asked(settings, data, tiny, prompters, ["zero_shot", "lora"]).lessons
    assert data.split.train
    for before, after in zip(data.split.train, found.train, strict=True):
        assert choice_prompt(after) == f"{ASK}\nText: {before.question}\nLabel:"
