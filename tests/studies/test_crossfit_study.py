"""Studies in folds: every row asked once, by what never saw it."""

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from domainwright.core.errors import ConfigError, DataError
from domainwright.evaluate.records import Item, Mark
from domainwright.maths.bootstrap import interval
from domainwright.maths.crossfit import crossfitted
from domainwright.studies import _crossfit
from domainwright.studies._crossfit import prepared
from domainwright.studies._few import MOST_ROWS, folds_for
from domainwright.studies.api import decide, load_run, plan
from domainwright.studies.card import model_card
from domainwright.studies.judge import compare, lead, score_of
from domainwright.studies.refine.rounds import refine
from domainwright.studies.report import render
from domainwright.studies.study import read_study
from domainwright.studies.tune import tune
from domainwright.train.settings import TrainSettings
from tests.studies import world

pytestmark = pytest.mark.usefixtures("quick")

FEW = {"folds": 3}


def few_file(folder, base, **changes):
    changes = {"evaluate": {"items": None}, "data": FEW, **changes}
    return world.study_file(folder, base, world.questions(world.PLANTS[:6]), **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory, base):
    """Eighteen rows in six groups, three folds, two seeds."""
    folder = tmp_path_factory.mktemp("folds")
    with pytest.MonkeyPatch.context() as patch:
        world.small_suite(patch)
        names = ["zero_shot", "few_shot", "instructed", "lora", "lora+few_shot"]
        file = few_file(folder, base, strategies=names, seeds=2)
        decided = decide(file, folder / "run")
    return decided


def items_of(folder: Path, name: str, part: str = "scorecard"):
    return world.read_lines(folder / "trials" / name / part / "items.jsonl")


def test_every_row_is_asked_once_and_by_its_own_fold(made):
    rows = {r["id"] for r in world.read_lines(made.folder / "dataset" / "train.jsonl")}
    assert len(rows) == 18
    for name in ("zero_shot", "few_shot", "instructed", "lora", "lora+few_shot"):
        asked = items_of(made.folder, name)
        assert {x["id"] for x in asked} == rows and len(asked) == 18
        for number in (1, 2, 3):
            fold = made.folder / "folds" / str(number)
            tested = {r["id"] for r in world.read_lines(fold / "dataset" / "test.jsonl")}
            label = "" if name == "zero_shot" else f"{number}/3"
            assert {x["fold"] for x in asked if x["id"] in tested} == {label}
            assert {x["id"] for x in items_of(fold, name)} == tested


def test_nothing_of_a_fold_reaches_what_answers_it(made):
    for number in (1, 2, 3):
        fold = made.folder / "folds" / str(number)
        tested = world.read_lines(fold / "dataset" / "test.jsonl")
        train = world.read_lines(fold / "dataset" / "train.jsonl")
        assert not {r["group"] for r in tested} & {r["group"] for r in train}
        assert len(tested) + len(train) == 18
        assert world.read_lines(fold / "dataset" / "dev.jsonl") == []


def test_examples_come_from_the_other_folds(tmp_path, base):
    study = read_study(few_file(tmp_path, base, strategies=["zero_shot", "few_shot"]))
    loaded = _crossfit.base_of(study)
    data = _crossfit.prepared(study, tmp_path / "run", base=lambda: loaded)
    data, whole, each = _crossfit.with_prompters(
        study, data, loaded, tmp_path / "run", ["zero_shot", "few_shot"]
    )
    assert len(whole.sources.examples) == 18
    for fold, prompters in zip(data.folds, each, strict=True):
        shown = {row.id for row in prompters.sources.examples}
        watched = {row.id for row in prompters.sources.development}
        assert shown == watched == {row.id for row in fold.split.train}
        assert {row.id for row in fold.lessons.dev} == shown
        for row in fold.split.test:
            text = json.dumps([m.content for m in prompters.get("few_shot").prompt(row).messages])
            assert text.count(row.group) == 1, "its own question alone names the plant"


def test_trainings_differ_by_fold_and_by_seed_and_one_is_of_all_rows(made):
    places = [Path("trials/lora"), *(Path(f"folds/{n}/trials/lora") for n in (1, 2, 3))]
    places += [place / "seed-1" for place in places[1:]]
    weights = {(made.folder / p / "adapter/adapter_model.safetensors").read_bytes() for p in places}
    assert len(weights) == 7 and not (made.folder / "trials/lora/seed-1/adapter").exists()
    chosen = [json.loads((made.folder / p / "chosen.json").read_text()) for p in places]
    assert all(one == chosen[0] for one in chosen), "the same settings everywhere"


def test_the_verdict_tells_what_was_measured_and_what_was_not(made):
    verdict = made.verdict
    data = verdict.data
    assert (data.folds, data.train, data.test, data.tested, data.groups) == (3, 18, 0, 18, 6)
    said = " ".join(verdict.recommendation.reasons)
    assert "18 rows in 6 groups stand in 3 folds" in said
    assert "trained 7 times: for every fold with 2 seeds" in said
    result = next(r for r in verdict.strategies if r.name == "lora")
    assert result.adapter == "trials/lora/adapter" and result.retention is not None
    marks = [
        [x["mark"][0] for x in items_of(made.folder, "lora", part)]
        for part in ("scorecard", "seed-1/scorecard")
    ]
    assert result.score.mean == pytest.approx(np.mean(marks))
    words = "trained on all 18 rows, so none of them could measure it"
    assert words in model_card(verdict, "lora")
    assert "18 in 3 folds" in render(verdict) and "2.50 times as large" in render(verdict)
    winner = verdict.recommendation.strategy
    assert ("trained on all 18 rows" in said) == winner.startswith("lora")


def test_intervals_are_those_of_crossfitted_items(made):
    asked = items_of(made.folder, "few_shot")
    values = np.array([x["mark"][0] for x in asked])
    groups = [x["group"] for x in asked]
    folds = [int(x["fold"][0]) for x in asked]
    by_name = {r.name: r for r in made.verdict.strategies}
    assert by_name["few_shot"].score == crossfitted(values, groups, folds, 3)
    plain = np.array([x["mark"][0] for x in items_of(made.folder, "zero_shot")])
    assert by_name["zero_shot"].score == interval(plain, groups)
    gain = crossfitted(values - plain, groups, folds, 3)
    d = by_name["few_shot"].difference
    assert (d.mean, d.low, d.high) == (gain.mean, gain.low, gain.high) and d.mcnemar is None


def test_what_is_shipped_draws_on_all_rows(made):
    run = load_run(made.folder, "few_shot")
    assert (
        len(run.prompter.sources.examples if hasattr(run.prompter, "sources") else [0] * 18) == 18
    )
    assert load_run(made.folder, "lora").adapter is not None


def test_an_interrupted_study_goes_on_fold_by_fold(tmp_path, base, made):
    file = few_file(tmp_path, base, strategies=["zero_shot", "lora"], seeds=2)
    fits, trained = {"left": 20}, []

    def stop():
        fits["left"] -= 1
        return fits["left"] <= 0

    with pytest.raises(KeyboardInterrupt):
        decide(file, tmp_path / "run", stop=stop)
    done = sorted((tmp_path / "run").glob("folds/*/trials/lora/adapter/manifest.json"))
    before = {path: path.stat().st_mtime_ns for path in done}
    assert 0 < len(done) < 3
    again = decide(
        file, tmp_path / "run", resume=True, listen=lambda step: trained.append(step.stage)
    )
    assert len(sorted((tmp_path / "run").glob("folds/*/trials/lora/adapter/manifest.json"))) == 3
    assert before and "train lora" in trained
    by_name = {r.name: r for r in made.verdict.strategies}
    for r in again.verdict.strategies:
        assert r.score == by_name[r.name].score, "as if it had never been interrupted"


def test_a_study_in_folds_cannot_be_refined_without_development_rows(made):
    with pytest.raises(DataError, match="no development rows") as caught:
        refine(made.folder, strategy="lora")
    assert "data.development" in str(caught.value)


def test_the_plan_counts_every_training(tmp_path, base):
    split = plan(few_file(tmp_path / "a", base, data={"folds": None}, seeds=1))
    folds = plan(few_file(tmp_path / "b", base, seeds=1))
    seeds = plan(few_file(tmp_path / "c", base, seeds=3))
    assert (split.folds, folds.folds, folds.items) == (0, 3, 18)
    assert any("trained 4 times" in note for note in folds.notes)
    assert any("trained 10 times" in note for note in seeds.notes)
    one, four, ten = (
        next(s for s in p.strategies if s.name == "lora") for p in (split, folds, seeds)
    )
    assert four.train_minutes == pytest.approx(4 * four.run.train_seconds / 60)
    assert ten.train_minutes == pytest.approx(10 * ten.run.train_seconds / 60)
    assert one.train_minutes == pytest.approx(one.run.train_seconds / 60)


def test_a_run_in_folds_is_looked_at_once(tmp_path, base, made):
    """No state of it is chosen, and five looks at general text cost more than ten steps."""
    data = prepared(read_study(few_file(tmp_path, base)), tmp_path / "run")
    for one in (data, *data.folds):
        assert one.looked_at(TrainSettings()).checks == 1
        assert one.looked_at(TrainSettings(checks=4)).checks == 4
    watched = replace(data, split=replace(data.split, dev=data.split.train[:2]))
    assert watched.looked_at(TrainSettings()).checks is None
    lines = (made.folder / "folds/1/trials/lora/metrics.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    looks = [line["step"] for line in history if "development_loss" in line]
    asked = made.verdict.study["train"]["checks"]
    assert looks == [0, history[-1]["step"]] if asked is None else len(looks) == asked + 1


def test_seeds_left_open_are_as_many_as_there_is_time_for(tmp_path, base):
    assert plan(few_file(tmp_path / "a", base)).seeds == 3
    assert plan(few_file(tmp_path / "b", base, budget={"minutes": 1e-4})).seeds == 1
    assert plan(few_file(tmp_path / "c", base, data={"folds": None})).seeds == 1


@pytest.mark.parametrize(
    ("changes", "rows", "groups", "expected"),
    [
        ({}, 60, 60, 5),
        ({}, 99, 97, 5),
        ({}, 100, 98, 0),  # 20 test groups and 10 development groups
        ({}, 400, 40, 5),
        ({}, 501, 40, 0),
        ({}, 9, 3, 3),
        ({}, 9, 1, 0),
        ({"test_share": 0.1}, 150, 150, 5),
        ({"test": ["t.jsonl"]}, 60, 60, 0),
        ({"development": ["d.jsonl"]}, 60, 60, 0),
        ({"split_by_date": True}, 60, 60, 0),
        ({"leaks": "keep"}, 60, 60, 0),
        ({"folds": None}, 60, 60, 0),
        ({"folds": 4}, 9000, 900, 4),
    ],
)
def test_when_a_study_is_cross_fitted(tmp_path, base, changes, rows, groups, expected):
    study = read_study(world.study_file(tmp_path, base, data={"folds": "auto"}))
    study, counted = replace(study, data=replace(study.data, **changes)), []
    assert folds_for(study, rows, lambda: counted.append(groups) or groups) == expected
    # Counting looks for copies among all rows: of many it takes as long as the split itself.
    assert not counted or rows <= MOST_ROWS


def test_few_rows_are_cross_fitted_by_themselves(tmp_path, base):
    file = few_file(tmp_path, base, data={"folds": "auto"}, strategies=["zero_shot", "few_shot"])
    decided = decide(file, tmp_path / "run")
    assert decided.verdict.data.folds == 5 and decided.verdict.data.tested == 18


def test_what_needs_a_split_keeps_it_or_is_refused(tmp_path, base):
    study = read_study(
        few_file(tmp_path, base, data={"folds": "auto"}, strategies=["zero_shot", "lora+gated"])
    )
    assert folds_for(study, 18, lambda: 6) == 0
    for changes, named in [
        ({"strategies": ["lora+gated"]}, "the strategy lora+gated needs"),
        ({"evaluate": {"learning_curve": True}}, "evaluate.learning_curve needs"),
        ({"data": {"folds": 3, "test": "train.jsonl"}}, "data.folds and data.test are both set"),
        ({"evaluate": {"sequence": ["a", "b"]}}, "evaluate.sequence needs"),
        ({"data": {"folds": 1}}, "data.folds is 1"),
        ({"train": {"patience": 2}}, "train.patience needs"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(named)):
            read_study(few_file(tmp_path, base, **changes))
    with pytest.raises(DataError, match=r"18 rows in 6 groups .* make no 7 folds"):
        decide(few_file(tmp_path, base, data={"folds": 7}), tmp_path / "many")


@pytest.mark.parametrize("kind", ["texts", "choices"])
def test_other_kinds_of_rows_are_asked_in_folds_too(tmp_path, base, kind):
    rows = getattr(world, kind)()[:12]
    file = world.study_file(tmp_path, base, rows, data={"folds": 2}, evaluate={"items": None})
    verdict = decide(file, tmp_path / "run").verdict
    assert verdict.data.tested == 12 and verdict.task == kind
    assert [r.status for r in verdict.strategies] == ["done", "done"]


def test_auto_races_nothing_where_rows_are_few(tmp_path, base):
    file = few_file(
        tmp_path,
        base,
        strategies="auto",
        seeds=1,
        train={"learning_rate": None},
        data={"folds": 2, "documents": "pages.jsonl"},
    )
    world.write_lines(tmp_path / "pages.jsonl", world.documents())
    verdict = decide(file, tmp_path / "run").verdict
    assert verdict.search is None and all(r.status == "done" for r in verdict.strategies)
    names = {r.name for r in verdict.strategies}
    assert {"zero_shot", "instructed", "rag", "lora", "lora+rag"} <= names
    assert any("No search: rows this few" in x for x in verdict.recommendation.reasons)
    folds = {x["fold"] for x in items_of(tmp_path / "run", "rag")}
    assert folds == {""}, "it learns from documents alone"


class Elsewhere:
    """Trains what it is given, as Ray's workers do."""

    def __init__(self):
        self.made = []

    def train(self, named, until, listen, stop):
        for wanted in named.values():
            tune(wanted, resume=True)
            self.made.append(wanted.folder)
        return dict.fromkeys(named)


def test_trainings_that_are_made_elsewhere_are_found(tmp_path, base, made, monkeypatch):
    there = Elsewhere()
    monkeypatch.setattr("domainwright.studies.decide.workers_of", lambda *asked: nullcontext(there))
    file = few_file(tmp_path, base, strategies=["zero_shot", "lora"], seeds=2)
    decided = decide(file, tmp_path / "run", on="ray")
    # Every fold with both seeds, and the one of all rows, whose other seed nobody needs.
    assert len(there.made) == len(set(there.made)) == 7
    by_name = {r.name: r.score for r in made.verdict.strategies}
    assert {r.name: r.score for r in decided.verdict.strategies} == {
        name: by_name[name] for name in ("zero_shot", "lora")
    }


def test_a_fold_that_fails_says_which(tmp_path, base):
    file = few_file(tmp_path, base, train={"learning_rate": 9.0, "steps": 3, "checks": 1})
    decided = decide(file, tmp_path / "run")
    lora = next(r for r in decided.verdict.strategies if r.name == "lora")
    assert lora.status == "failed" and lora.reason


def item(number, value, fold=""):
    return Item(
        id=str(number), group=f"g{number}", question="", reference="", reply="",
        mark=Mark(value, True), fold=fold,
    )  # fmt: skip


def test_a_difference_is_widened_whichever_side_learns_from_rows():
    rng = np.random.default_rng(2)
    plain = [item(n, float(v)) for n, v in enumerate(rng.random(30))]
    folded = [
        replace(x, mark=Mark(x.mark.correct + 0.1 * rng.random(), True), fold=f"{1 + n % 5}/5")
        for n, x in enumerate(plain)
    ]
    ahead, behind = lead(folded, plain), lead(plain, folded)
    assert (ahead.low, ahead.high) == (pytest.approx(-behind.high), pytest.approx(-behind.low))
    bare = lead([replace(x, fold="") for x in folded], plain)
    assert ahead.high - ahead.low >= 1.49 * (bare.high - bare.low)
    assert score_of(plain).high < 1 and ahead.mean == pytest.approx(bare.mean)
    found = compare({"zero_shot": plain, "lora": folded})["lora"]
    without = compare({"zero_shot": plain, "lora": [replace(x, fold="") for x in folded]})["lora"]
    assert found.p > without.p and found.mean == without.mean
