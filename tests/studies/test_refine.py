"""A round from its errors to its decision, on a base of two layers."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch

import domainwright as dw
from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import ConfigError, DataError, RunFailed, UnknownName
from domainwright.core.progress import quiet
from domainwright.curate.dataset import read_dataset
from domainwright.models.base import load_base
from domainwright.studies._opened import open_adapter
from domainwright.studies.export import export
from domainwright.studies.refine import challenger
from domainwright.studies.refine.champion import FILE, in_force, read_champions, roll_back
from domainwright.studies.refine.proposal import offered
from domainwright.studies.refine.rounds import refine
from domainwright.studies.refine.source import open_source
from domainwright.studies.tune import Wanted, tune
from domainwright.train.settings import TrainSettings
from tests.studies import world

pytestmark = pytest.mark.usefixtures("quick")
PLANTS = [f"{name}{end}" for end in ("", "wort") for name in world.PLANTS]
"""Enough groups for a gain to be significant."""
OWN = "trials/lora/adapter"
NEW = "refine/round-1/trial/adapter"


def texts():
    """Sixty texts in as many groups, from which even two layers learn something."""
    return [
        {"id": f"{row['id']}-{n}", "text": row["text"].replace("list", f"list of {n} leaves")}
        for n in range(3)
        for row in world.texts()
    ]


_DECIDED = {}


@pytest.fixture
def decided(quick, base, tmp_path_factory):
    """(name, rows, steps) -> a copy of its study, which is decided once."""

    def copy(name, rows, steps):
        if name not in _DECIDED:
            folder = tmp_path_factory.mktemp(name)
            changes = {"data": {"development_share": 0.4}, "train": {"steps": steps}}
            study = world.study_file(folder, base, rows=rows, **changes)
            _DECIDED[name] = dw.decide(study, folder / "run").folder
        return shutil.copytree(_DECIDED[name], tmp_path_factory.mktemp("copy") / "run")

    return copy


@pytest.fixture
def run(decided):
    """A study on texts whose adapter is far from done: more steps help."""
    return decided("texts", texts(), 2)


@pytest.fixture
def answers(decided):
    """A study on questions, most of which are answered wrongly."""
    return decided("answers", world.questions(PLANTS), 6)


def tensors(folder, base):
    return open_adapter(load_base(str(base), dtype="float32", device="cpu"), folder).state_dict()


def test_a_gain_is_accepted_and_in_force(run, base):
    found = dw.refine(run, strategy="lora", steps=20)
    assert found.decision.accepted, found.decision
    assert found.decision.sentence.startswith("Accepted: the challenger gains -")  # bits per byte
    assert found.in_force == NEW and in_force(run, OWN) == run / NEW
    assert found.training.steps == 20 and found.training.settings["schedule"] == "wsd"
    assert found.training.settings["decay_share"] == 0.8
    assert found.training.settings["learning_rate"] == 0.01
    # What the study measured is not measured again.
    assert (
        not (run / "refine/base").exists()
        and not (run / "refine/round-1/champion/retention").exists()
    )
    manifest = read_manifest(run / "refine/round-1", "refinement")
    assert manifest["parents"]["champion"] == read_manifest(run / OWN)["hash"]
    assert manifest["parents"]["challenger"] == read_manifest(run / NEW)["hash"]
    loaded = dw.load_run(run, "lora").adapter.state_dict()
    want = tensors(run / NEW, base)
    assert all(torch.equal(loaded[name], value) for name, value in want.items())
    (run / FILE).unlink()  # killed before the crown was written
    assert in_force(run, OWN) == run / OWN
    assert refine(run, strategy="lora", steps=20, resume=True).in_force == NEW
    export(run, run.parent / "peft", "peft")
    assert (run.parent / "peft/adapter_model.safetensors").is_file()
    before_it(run, base)
    second_round(run)


def before_it(run, base):
    """What `--roll-back` does, twice."""
    event = roll_back(run)
    assert (event.what, event.round, event.adapter) == ("rolled back", 1, OWN)
    loaded = dw.load_run(run, "lora").adapter.state_dict()
    old = tensors(run / OWN, base)
    assert all(torch.equal(loaded[name], value) for name, value in old.items())
    assert [event.what for event in read_champions(run).history] == ["accepted", "rolled back"]
    with pytest.raises(ConfigError, match="none was before it"):
        roll_back(run)


def second_round(run):
    """The round before is whole: what was rolled back is not taken up again, and a new one asks
    for more."""
    assert dw.refine(run, strategy="lora", steps=20, resume=True).in_force == OWN
    found = dw.refine(run, strategy="lora", steps=1)
    assert found.round == 2 and found.decision.level == 0.0125


def test_errors_are_looked_at_in_one_half_and_the_other_judges(answers):
    found = refine(answers, strategy="lora")
    data = read_dataset(answers / "dataset")
    groups = {row.id: row.group for row in (*data.train, *data.dev, *data.test)}
    looked = {id for cluster in found.errors.clusters for id in cluster.rows}
    folder = answers / "refine/round-1"
    judged = {x["id"] for x in world.read_lines(folder / "challenger/scorecard/items.jsonl")}
    assert looked and judged and not {groups[i] for i in looked} & {groups[i] for i in judged}
    assert looked | judged <= {row.id for row in data.dev}
    assert found.errors.asked + len(judged) == len(data.dev)
    proposed = read_dataset(folder / "data").train
    assert {row.id for row in proposed} <= {row.id for row in data.train}
    assert found.proposal.source == "repeated" and not found.proposal.set_aside
    assert [x["id"] for x in world.read_lines(folder / "reasons.jsonl")] == [r.id for r in proposed]
    assert not found.decision.accepted and found.in_force == OWN and not (answers / FILE).exists()
    assert found.training.steps == 1  # a fifth of six
    assert json.loads((folder / "decision.json").read_text()) == json.loads(
        json.dumps(asdict(found.decision))
    )


def test_new_rows_are_checked_and_chosen(answers, tmp_path):
    data = read_dataset(answers / "dataset")
    test, train = data.test[0], data.train[0]
    rows = [
        {"question": f"What colour is {name}?", "answer": f"{name} is red", "rating": "good"}
        for name in (
            "aster",
            "begonia",
            "clover",
            "dahlia",
            "clover",
            "erica",
            "fuchsia",
            "gentian",
        )
    ]
    rows += [{"question": x.question, "answer": x.answer} for x in (test, train)]
    rows += [{"id": test.id, "question": "Who sells heather seed?", "answer": "the red shop"}]
    file = world.write_lines(tmp_path / "feedback.jsonl", rows)
    bad = {"prompt": "What colour is ivy?", "completion": "none", "label": False}
    rated = world.write_lines(tmp_path / "rated.jsonl", [bad, {**bad, "prompt": "And moss?"}])
    found = refine(answers, strategy="lora", steps=2, data=[file, rated])
    proposal = found.proposal
    assert proposal.source == "data" and proposal.offered == 13
    assert proposal.set_aside["exact_duplicate"] == 1 and proposal.set_aside["not_wanted"] == 2
    assert proposal.set_aside["leaks_into_test"] == 1 and proposal.set_aside["already_trained"] == 1
    assert proposal.chosen + sum(proposal.set_aside.values()) == proposal.offered
    assert [x.question for x in found.errors.reported] == ["What colour is ivy?", "And moss?"]
    written = read_dataset(answers / "refine/round-1/data")
    assert len(written.train) == proposal.chosen and written.manifest["facts"]["records"] == 13
    assert not {row.id for row in written.train} & {row.id for row in (*data.dev, *data.test)}
    parents = read_manifest(answers / "refine/round-1/trial/adapter")["parents"]
    assert parents["proposed"] == written.manifest["hash"]
    assert parents["begin"] == read_manifest(answers / OWN)["hash"]


def test_new_rows_are_curated_where_the_study_curates(answers, tmp_path):
    rows = [
        {"question": "Who sells aster seed?", "answer": "write to ann@example.com"},
        {"question": "Who sells ivy seed?", "answer": "<b>the</b> red shop"},
        {"question": "Who sells moss seed?", "answer": "..."},
    ]
    file = world.write_lines(tmp_path / "new.jsonl", rows)
    source = open_source(answers, "lora", quiet)
    assert len(offered([file], source.data, source.study).rows) == 3
    study = replace(source.study, data=replace(source.study.data, curate=True))
    offer = offered([file], source.data, study)
    assert [row.answer for row in offer.rows] == ["write to [EMAIL_1]", "the red shop"]
    assert offer.changed == {"pii": 1, "html": 1}
    assert [entry.reason for entry in offer.set_aside] == ["empty_answer"]


def test_variants_are_made_by_rule(answers):
    found = refine(answers, strategy="lora", steps=4, augment="eda")
    made = [r for r in read_dataset(answers / "refine/round-1/data").train if r.provenance]
    assert len(made) == found.proposal.made
    assert all(row.provenance.op.startswith("eda") and row.id.endswith("@1") for row in made)
    assert found.proposal.chosen <= 8


def test_a_run_of_one_method(base, tmp_path):
    study = world.study_file(
        tmp_path, base, rows=texts(), data={"development_share": 0.4}, train={"steps": 2}
    )
    dw.train_method(study, "bottleneck", tmp_path / "run")
    found = refine(tmp_path / "run", steps=20)
    assert found.strategy == "bottleneck" and found.decision.accepted, found.decision
    assert dw.load_run(tmp_path / "run").adapter is not None
    assert in_force(tmp_path / "run", "adapter") == tmp_path / "run" / NEW


def test_choices_and_their_confusions(base, tmp_path):
    rows = [
        {**row, "choices": ["yes", "no"], "answer": n % 2} for n, row in enumerate(world.choices())
    ]
    study = world.study_file(tmp_path, base, rows=rows, data={"development_share": 0.4})
    run = dw.decide(study, tmp_path / "run").folder
    found = refine(run, strategy="lora")
    told = sum(one.times for one in found.errors.confusions)
    assert told == found.errors.wrong and {"yes", "no"} >= {
        one.given for one in found.errors.confusions
    }


def test_a_run_goes_on_from_a_state(answers, base, tmp_path):
    """At no learning rate to speak of it stays there; forgetting counts from the base."""
    data = read_dataset(answers / "dataset")
    wanted = Wanted(
        base=load_base(str(base), dtype="float32", device="cpu"),
        method="lora",
        rows=data.train,
        development=data.dev,
        general=(),
        settings=TrainSettings(steps=1, batch=2, learning_rate=1e-12, max_forgetting=9.0),
        method_settings={},
        steps=None,
        seed=7,
        folder=tmp_path / "on",
        parents={},
        begin=answers / OWN,
    )
    tuned = tune(wanted)
    for name, value in tensors(answers / OWN, base).items():
        torch.testing.assert_close(tuned.adapter.state_dict()[name], value, rtol=0, atol=1e-9)
    first, last = tuned.training.history[0], tuned.training.history[-1]
    assert last["development_loss"] < first["development_loss"]


def test_a_challenger_that_fails_its_checks_is_refused(answers, monkeypatch):
    def diverges(*_, **__):
        raise RunFailed("The loss is nan.", "lower the rate.")

    monkeypatch.setattr(challenger, "tune", diverges)
    found = refine(answers, strategy="lora")
    assert not found.decision.accepted and "failed its own checks. The loss is nan." in (
        found.decision.sentence
    )
    assert found.training is None and read_manifest(found.folder)["parents"]["challenger"] == ""


def test_too_few_groups_to_judge_by(base, tmp_path):
    """Errors are named and rows proposed, and no minute is spent on a challenger."""
    study = world.study_file(tmp_path, base, data={"development_share": 0.3})
    run = dw.decide(study, tmp_path / "run").folder
    found = refine(run, strategy="lora")
    assert found.decision.sentence.startswith("Refused, nothing was trained: 3 held-out groups")
    assert "7 groups are needed" in found.decision.sentence
    assert found.errors.clusters and found.proposal.chosen and found.training is None
    assert not (found.folder / "trial").exists() and read_manifest(found.folder, "refinement")


def test_the_challenger_neither_learns_nor_watches_the_judging_half(answers, monkeypatch):
    asked = []

    def stopped(wanted, **_):
        asked.append(wanted)
        raise RunFailed("Stopped.", "go on.")

    monkeypatch.setattr(challenger, "tune", stopped)
    found = refine(answers, strategy="lora", steps=5)
    data, (wanted,) = read_dataset(answers / "dataset"), asked
    assert len(wanted.development) == found.errors.asked
    looked = {id for cluster in found.errors.clusters for id in cluster.rows}
    assert looked <= {row.id for row in wanted.development} <= {row.id for row in data.dev}
    assert {row.id for row in wanted.rows} <= {row.id for row in data.train}
    assert len(wanted.rows) == 20 and wanted.begin == answers / OWN
    # A file that is replayed must not give the test away.
    assert {row.id for row in wanted.hidden} == {row.id for row in data.test} != set()


def test_an_unfinished_round(answers, monkeypatch, tmp_path):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(challenger, "tune", killed)
        with pytest.raises(KeyboardInterrupt):
            refine(answers, strategy="lora")
    with pytest.raises(ConfigError, match="unfinished round") as told:
        refine(answers, strategy="lora")
    assert "--resume" in told.value.fix and "--fresh" in told.value.fix
    with pytest.raises(ConfigError, match="begun with steps = 1, and it is 3 now"):
        refine(answers, strategy="lora", steps=3, resume=True)
    assert refine(answers, strategy="lora", steps=3, fresh=True).round == 1


def test_what_does_not_fit_the_run(answers, base, tmp_path):
    with pytest.raises(ConfigError, match="zero_shot has no adapter") as told:
        refine(answers, strategy="zero_shot")
    assert "--strategy: lora" in told.value.fix
    with pytest.raises(UnknownName, match="no strategy called 'lor'"):
        refine(answers, strategy="lor")
    with pytest.raises(ConfigError, match="share is 0"):
        refine(answers, share=0)
    with pytest.raises(ConfigError, match="steps is 0"):
        refine(answers, steps=0)
    with pytest.raises(ConfigError, match="paraphrase needs a writer"):
        refine(answers, augment="paraphrase")
    with pytest.raises(ConfigError, match="one of the two"):
        refine(answers, strategy="lora", resume=True, fresh=True)
    with pytest.raises(DataError, match="There is no file"):
        refine(answers, strategy="lora", data=[tmp_path / "none.jsonl"])
    texts = world.write_lines(tmp_path / "texts.jsonl", world.texts())
    with pytest.raises(DataError, match="text rows, and the study was decided on chat rows"):
        refine(answers, strategy="lora", data=[texts])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no finished study"):
        refine(empty)
    assert not list(empty.iterdir())


def test_changed_rows_or_a_changed_base(answers, base):
    other = world.save_base(answers.parent / "other", seed=1)
    verdict = answers / "verdict.json"
    text = verdict.read_text()
    verdict.write_text(text.replace(str(base), str(other)))
    with pytest.raises(DataError, match="was trained on"):
        refine(answers, strategy="lora")
    verdict.write_text(text)
    with (answers / "dataset/train.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(DataError, match="altered"):
        refine(answers, strategy="lora")
    assert not (answers / "refine").exists()


def test_nothing_wrong_is_nothing_to_refine(answers, monkeypatch):
    monkeypatch.setattr("domainwright.studies.refine.errors.HALF", -1.0)
    with pytest.raises(DataError, match="development rows right that are looked at"):
        refine(answers, strategy="lora")
    assert not (answers / "refine/round-1").exists()


def test_a_champion_that_is_gone(answers):
    line = {"lines": {OWN: [OWN, NEW]}, "history": [], "schema": 1}
    (answers / FILE).write_text(json.dumps(line))
    with pytest.raises(DataError, match="which is not there") as told:
        dw.load_run(answers, "lora")
    assert "--roll-back" in told.value.fix
    roll_back(answers, "lora")
    assert dw.load_run(answers, "lora").adapter is not None
    (answers / FILE).write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        dw.load_run(answers, "lora")
