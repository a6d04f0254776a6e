"""What a study is predicted to take, and that the study then does what was planned."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

import domainwright
from domainwright.core.config import from_mapping
from domainwright.core.errors import CapabilityError
from domainwright.prompting._sources import PromptSettings
from domainwright.studies import _probes as probes
from domainwright.studies import _speeds
from domainwright.studies import plan as plans
from domainwright.studies import tune as tuning
from domainwright.studies._prompt_tokens import item_tokens, preparing_tokens
from domainwright.studies.api import decide, train_method
from domainwright.studies.plan import Plan
from domainwright.studies.plan_table import plan_lines, plan_rows
from domainwright.studies.records import read_verdict
from tests.studies import world
from tests.tiny import tiny_base

pytestmark = pytest.mark.usefixtures("quick")
STRATEGIES = ["zero_shot", "few_shot", "lora", "lora+few_shot"]


@pytest.fixture(scope="module")
def study(tmp_path_factory, base):
    return world.study_file(tmp_path_factory.mktemp("study"), base, strategies=STRATEGIES)


def plan(study, *overrides):
    return domainwright.plan(study, overrides=overrides)


def test_every_strategy_has_its_prediction(study):
    before = sorted(study.parent.rglob("*"))
    found = plan(study)
    assert sorted(study.parent.rglob("*")) == before
    assert [s.name for s in found.strategies] == STRATEGIES
    zero, few, lora, both = found.strategies
    assert zero.run is few.run is None and lora.run == both.run
    # Few-shot reads its examples too; training is paid for once.
    assert 0 < zero.ask_minutes < few.ask_minutes and lora.ask_minutes == zero.ask_minutes
    assert lora.train_minutes > 0 and both.train_minutes == both.check_minutes == 0
    assert lora.run.fits and lora.run.peak_mib > 50 and lora.run.steps == found.steps == 6
    assert found.minutes > sum(s.ask_minutes + s.train_minutes for s in found.strategies)


def test_a_plan_survives_json(study):
    found = plan(study)
    assert from_mapping(Plan, json.loads(json.dumps(asdict(found))), "plan") == found


def test_what_does_not_fit_is_refused_with_what_would(study):
    found = plan(study, "budget.memory_gb=0.01")
    run = found.run_of("lora")
    assert not run.fits and run.gradient_checkpointing
    assert "raise budget.memory_gb to" in run.remedy and "smaller base" in run.remedy
    with pytest.raises(CapabilityError, match=r"lora: Training on .* budget is 0\.01 GB"):
        found.require()
    assert plan(study, "budget.memory_gb=0.01", "strategies=[zero_shot]").require() is None


def test_a_study_that_cannot_train_still_measures_the_rest(study, tmp_path):
    decided = decide(study, tmp_path / "run", overrides=["budget.memory_gb=0.01"])
    states = {r.name: (r.status, r.reason) for r in decided.verdict.strategies}
    assert states["zero_shot"][0] == states["few_shot"][0] == "done"
    assert states["lora"][0] == "failed" and "raise budget.memory_gb" in states["lora"][1]
    with pytest.raises(CapabilityError, match=r"the budget is 0\.01 GB"):
        train_method(study, "lora", tmp_path / "one", overrides=["budget.memory_gb=0.01"])


def test_the_run_does_what_was_planned(study, tmp_path, monkeypatch):
    """Also with checkpointing chosen by the plan; predictions stand beside measurements."""
    plain = probes.measure

    def tight(base, build, wish):
        return replace(plain(base, build, wish), resident_mib=0.0, recompute=True)

    monkeypatch.setattr(probes, "measure", tight)
    monkeypatch.setattr(tuning, "fit", lambda *_: pytest.fail("planned twice"))
    overrides = ["strategies=[zero_shot, lora]"]
    decided = decide(study, tmp_path / "run", overrides=overrides)
    stored = json.loads((tmp_path / "run" / "plan.json").read_text())
    run = stored["strategies"][1]["run"]
    training = read_verdict(tmp_path / "run" / "verdict.json").strategies[-1].training
    training = next(r.training for r in decided.verdict.strategies if r.name == "lora") or training
    assert training.settings["micro_tokens"] == run["micro_tokens"] == 2048
    assert training.settings["gradient_checkpointing"] is run["gradient_checkpointing"] is True
    assert training.planned.peak_rss_mib == round(run["peak_mib"])
    assert training.planned.minutes > 0
    assert json.loads((tmp_path / "run/trials/lora/planned.json").read_text()) == run


def test_offload_asked_for_is_told_done_and_may_change_on_resume(study, tmp_path):
    on, off = "train.offload=true", "train.offload=false"
    lines = plan_lines(plan(study, on, "strategies=[zero_shot, lora]"))
    assert any(line.startswith("offload, lora: the optimiser's state lies on") for line in lines)

    def stop(step):
        if step.stage == "train lora" and step.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_method(study, "lora", tmp_path / "run", listen=stop, overrides=[on])
    chosen = json.loads((tmp_path / "run" / "chosen.json").read_text())
    assert chosen["offload"] is True
    got = train_method(study, "lora", tmp_path / "run", resume=True, overrides=[off])
    straight = train_method(study, "lora", tmp_path / "straight", overrides=[off])
    looks = [
        [x["development_loss"] for x in run.history if "development_loss" in x]
        for run in (got, straight)
    ]
    assert looks[0] == looks[1]


def test_a_resumed_run_is_not_measured_again(study, tmp_path, monkeypatch):
    """A probe would answer a little differently, and other passes add in another order."""

    def stop(step):
        if step.stage == "train lora" and step.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_method(study, "lora", tmp_path / "run", listen=stop)
    probed = []
    plain = tuning.fit

    def counted(*given):
        probed.append(given)
        return plain(*given)

    monkeypatch.setattr(tuning, "fit", counted)
    with pytest.raises(KeyboardInterrupt):
        train_method(study, "lora", tmp_path / "run", resume=True, listen=stop)
    assert not probed
    got = train_method(
        study, "lora", tmp_path / "run", resume=True, overrides=["budget.memory_gb=60"]
    )
    assert len(probed) == 1 and got.steps == 6


def test_a_short_budget_shortens_and_says_so(study):
    found = plan(study, "budget.minutes=0.02", "train.steps=null", "evaluate.items=null")
    assert found.items < 30 and found.steps >= plans.FEWEST_STEPS
    roomy = plan(study, "train.steps=null")
    assert roomy.steps >= found.steps and not roomy.notes


def test_training_takes_what_asking_leaves(study, monkeypatch):
    """Few items, read fast: their share of the budget is no reason to train less."""
    monkeypatch.setattr(plans, "rates", lambda *_: (1e9, 1e9))
    monkeypatch.setattr(plans, "step_seconds", lambda *_: 1.0)
    found = plan(study, "budget.minutes=1", "train.steps=null", "train.epochs=500")
    asked = sum(s.ask_minutes for s in found.strategies)
    assert "steps of 500 epochs, so that the study fits into 1 minutes" in found.notes[-1]
    assert asked < 0.01 and plans.TRAIN_SHARE * 60 < 38 < found.steps <= plans.BOTH * 60


@pytest.mark.parametrize(
    ("strategy", "tokens"),
    [
        ("zero_shot", 30),
        ("lora", 30),
        ("few_shot_random", 30 + 4 * 30),
        ("lora+rag", 30 + 3 * 50),
        ("rag_few_shot", 30 + 4 * 30 + 3 * 50),
    ],
)
def test_a_prompt_has_its_examples_and_passages_and_no_more_than_there_is_room(strategy, tokens):
    page = SimpleNamespace(text="a" * 200)
    data = SimpleNamespace(split=SimpleNamespace(train=[]), documents=[page] * 5)
    study = SimpleNamespace(prompting=PromptSettings())
    assert item_tokens(strategy, study, data, 30) == tokens
    study.prompting = PromptSettings(context_tokens=100)
    assert item_tokens(strategy, study, data, 30) == min(tokens, 130)
    data.documents = []  # training rows are quoted
    study.prompting = PromptSettings(examples=1)
    shown = ("few_shot" in strategy) + 3 * ("rag" in strategy)
    assert item_tokens(strategy, study, data, 30) == 30 + 30 * shown


def test_what_is_read_before_anything_is_asked_counts():
    row, page = object(), SimpleNamespace(text="a" * 400)
    split = SimpleNamespace(train=[row] * 2000, dev=[row] * 40)
    data = SimpleNamespace(split=split, documents=[page] * 3)
    passages = 3 * 100 * 150 / 128  # they overlap
    assert preparing_tokens(["zero_shot", "lora", "few_shot_random"], data, 30) == (0, 0)
    assert preparing_tokens(["few_shot", "lora+few_shot"], data, 30) == (1500 * 30, 0)
    assert preparing_tokens(["lora+rag"], data, 30) == pytest.approx((passages, 0))
    assert preparing_tokens(["rag_bm25", "lora+rag_bm25"], data, 30) == (0, 0)
    found = preparing_tokens(["rag_few_shot", "instructed"], data, 30)
    assert found == pytest.approx((passages + 1500 * 30, 9 * 32 * 30))
    data.documents = []
    assert preparing_tokens(["rag"], data, 30) == (2000 * 30, 0)
    assert preparing_tokens(["rag"], data, 900) == (2000 * 256, 0)  # as the encoder cuts them


def test_a_budget_that_is_far_too_small_is_said_to_be(study):
    (said,) = [x for x in plan(study, "budget.minutes=0.001").notes if "expected" in x]
    assert "and the budget is 0.001: ask fewer strategies" in said
    assert not [x for x in plan(study, "budget.minutes=600").notes if "expected" in x]


def test_the_table_tells_all_of_it(study):
    found = plan(study)
    heading, rows = plan_rows(found)
    assert [row[0] for row in rows] == STRATEGIES and all(len(r) == len(heading) for r in rows)
    assert rows[0][2:] == ["", "", "", "", "", "yes"]
    assert rows[2][5:] == ["2048", "off", "yes"]
    lines = plan_lines(found)
    assert max(map(len, lines)) <= 80
    assert "6 test items and 6 steps of training" in lines[-1]
    refused = plan_rows(plan(study, "budget.memory_gb=0.01"))[1]
    assert refused[2][6:] == ["on", "no"]


def test_a_probe_reads_a_full_pass_and_writes_a_full_batch(monkeypatch):
    """Few short documents are read again: a small pass would be slower a token than a study's."""
    pieces = _speeds._pieces([[1] * 300, [2] * 10])
    assert [len(p) for p in pieces] == [256, 10] * 7 + [256] and pieces[0] == pieces[2] == [1] * 256
    base, asked = tiny_base(), []
    write = _speeds.answer

    def answer(base, prompts, **settings):
        asked.append((len(prompts), max(map(len, prompts)), settings["new_tokens"]))
        return write(base, prompts, **settings)

    monkeypatch.setattr(_speeds, "answer", answer)
    read, written = _speeds.rates(base, [[5, 6, 7] * 9, [8, 9]], True)
    assert read > 0 and written > 0 and asked == [(96, 16, 2), (96, 16, 9)]
