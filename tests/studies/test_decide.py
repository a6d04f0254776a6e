"""A study from its file to its verdict, on a base of two layers."""

import json
from collections import Counter

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import ConfigError, DataError
from domainwright.curate.dataset import read_dataset
from domainwright.models.base import load_base
from domainwright.models.flat import flatten
from domainwright.studies.api import decide, load_run
from domainwright.studies.records import read_verdict
from tests.studies import world
from tests.tiny import tiny_folder

pytestmark = pytest.mark.usefixtures("quick")
EVERY = ["zero_shot", "few_shot", "rag", "lora", "lora+rag"]


def items(folder, strategy):
    return world.read_lines(folder / "trials" / strategy / "scorecard" / "items.jsonl")


def check_whole(decided, strategies):
    """What holds for every finished study."""
    verdict, folder = decided.verdict, decided.folder
    assert {r.name: r.status for r in verdict.strategies} == dict.fromkeys(strategies, "done")
    assert read_verdict(folder / "verdict.json").as_json() == json.loads(
        json.dumps(verdict.as_json())
    )
    assert "</html>" in (folder / "report.html").read_text()
    data = read_dataset(folder / "dataset")
    parts = (data.train, data.dev, data.test)
    assert tuple(map(len, parts)) == (
        verdict.data.train,
        verdict.data.development,
        verdict.data.test,
    )
    rows = [s for s in verdict.data.sources if s.role != "documents"]
    for source in verdict.data.sources:
        assert source.records == source.kept + sum(source.set_aside.values())
    # Rows in = rows kept + rows set aside, over all files and steps.
    assert sum(s.records for s in rows) == sum(map(len, parts)) + len(data.set_aside)
    trained = {row.id for row in (*data.train, *data.dev)}
    for name in strategies:
        asked = [item["id"] for item in items(folder, name)]
        assert len(asked) == verdict.data.tested == len(set(asked))
        assert set(asked) <= {row.id for row in data.test} and not set(asked) & trained
    assert not {row.group for row in data.test} & {row.group for row in (*data.train, *data.dev)}
    manifest = read_manifest(folder, "verdict")
    hashes = {
        name: read_manifest(folder / "trials" / name / "scorecard", "scorecard")["hash"]
        for name in strategies
    }
    assert manifest["parents"] == {"dataset": data.manifest["hash"], **hashes}
    return data


@pytest.fixture(scope="module")
def full(tmp_path_factory, base):
    """Every strategy on conversations with documents, once for this module."""
    folder = tmp_path_factory.mktemp("full")
    world.write_lines(folder / "documents.jsonl", world.documents())
    study = world.study_file(
        folder,
        base,
        data={"documents": "documents.jsonl"},
        strategies=EVERY,
    )
    return decide(study, folder / "run")


def test_every_strategy_on_conversations(full):
    check_whole(full, EVERY)
    verdict = full.verdict
    assert verdict.task == "answers" and verdict.score == "token_f1"
    assert verdict.data.documents == 20
    by_name = {r.name: r for r in verdict.strategies}
    assert by_name["zero_shot"].difference is None
    assert by_name["lora"].training.steps == 6
    assert by_name["lora"].training.history[0]["step"] == 0
    assert by_name["lora+rag"].adapter == by_name["lora"].adapter == "trials/lora/adapter"
    assert by_name["rag"].tokens_in > by_name["zero_shot"].tokens_in
    assert all(len(x["passages"]) == 3 for x in items(full.folder, "rag"))
    assert not any(x["passages"] for x in items(full.folder, "few_shot"))
    assert by_name["rag"].retention.nats_change.mean == 0
    assert len(verdict.examples) == 6 and len(verdict.examples[0].replies) == 5


def test_scorecards_name_what_they_were_made_from(full):
    parents = read_manifest(full.folder / "trials/lora+rag/scorecard")["parents"]
    adapter = read_manifest(full.folder / "trials/lora/adapter", "adapter")
    assert parents["adapter"] == adapter["hash"]
    documents = next(s for s in full.verdict.data.sources if s.role == "documents")
    assert parents[documents.file] == documents.sha256
    assert documents.file not in read_manifest(full.folder / "trials/lora/scorecard")["parents"]
    assert parents["dataset"] == read_manifest(full.folder / "dataset")["hash"]
    assert parents["base"] == full.verdict.base["sha256"] == adapter["parents"]["base"]


def test_the_adapter_loads_with_peft(full, base):
    ids = [[5, 9, 200, 31, 7, 12]]
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    untouched = plain(torch.tensor(ids)).logits[0]
    tuned = PeftModel.from_pretrained(plain, full.folder / "trials/lora/adapter").eval()
    want = tuned(torch.tensor(ids)).logits[0]
    run = load_run(full.folder, "lora")
    flat = flatten(ids, run.base.device)
    with run.adapter.attached():
        got = run.base.logits(flat, torch.arange(flat.tokens))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert (want - untouched).abs().max() > 1e-3


def test_the_card_of_the_adapter_is_written(full):
    assert "lora" in (full.folder / "trials/lora/adapter/README.md").read_text()


def test_a_strategy_answers_as_it_was_measured(full):
    first = items(full.folder, "lora")[0]
    assert load_run(full.folder, "lora").chat(first["question"], new_tokens=4) == first["reply"]
    _, passages = load_run(full.folder, "lora+rag").ask(first["question"], new_tokens=4)
    assert list(passages) == items(full.folder, "lora+rag")[0]["passages"]


def test_the_best_answers(full):
    assert full.best.strategy == full.recommendation.strategy
    assert isinstance(full.best.chat("What colour is fern?", new_tokens=3), str)


def test_a_trained_method_of_a_combination_can_be_asked_alone(tmp_path, base):
    decided = decide(world.study_file(tmp_path, base, strategies=["lora+rag"]), tmp_path / "run")
    check_whole(decided, ["zero_shot", "lora+rag"])
    assert load_run(decided.folder, "lora").adapter is not None


@pytest.mark.parametrize(
    ("rows", "task", "score"),
    [
        (world.choices(), "choices", "accuracy_norm"),
        (world.texts(), "texts", "negative_bits_per_byte"),
    ],
    ids=["choices", "texts"],
)
def test_auto_on_other_kinds_of_rows(tmp_path, base, rows, task, score):
    decided = decide(world.study_file(tmp_path, base, rows, strategies="auto"), tmp_path / "run")
    expected = ["zero_shot", "lora"]
    if task == "choices":
        expected = ["zero_shot", "instructed", "few_shot", "rag", "lora"]
    check_whole(decided, expected)
    assert (decided.task, decided.score) == (task, score)


def test_auto_with_documents_adds_the_combination(full, tmp_path, base):
    world.write_lines(tmp_path / "documents.jsonl", world.documents())
    study = world.study_file(
        tmp_path, base, strategies="auto", data={"documents": "documents.jsonl"}
    )
    decided = decide(study, tmp_path / "run")
    prompted = ["zero_shot", "instructed", "few_shot", "rag", "rag_few_shot"]
    check_whole(decided, [*prompted, "lora", "lora+rag"])
    chosen = next(r for r in decided.verdict.strategies if r.name == "instructed")
    assert chosen.note is not None
    run = load_run(decided.folder, "instructed")
    assert run.strategy == "instructed" and run.settings.instruction == (chosen.note or None)
    assert run.ask("What colour is alder?", new_tokens=3)[0] == run.chat(
        "What colour is alder?", new_tokens=3
    )


def test_the_verdict_as_a_frame(full):
    table = full.table()
    assert table["strategy"].to_list() == [r.name for r in full.verdict.strategies]
    first = full.verdict.strategies[-1]
    row = table.row(-1, named=True)
    assert row["score_low"] == first.score.low and row["difference"] == first.difference.mean
    assert table["recommended"].sum() == 1 and row["cost_in_all"] > 0


def test_text_has_no_prompting_strategies(tmp_path, base):
    study = world.study_file(tmp_path, base, world.texts(), strategies=["rag", "lora+few_shot"])
    verdict = decide(study, tmp_path / "run").verdict
    assert {r.name: r.status for r in verdict.strategies} == {
        "zero_shot": "done",
        "rag": "skipped",
        "lora+few_shot": "skipped",
    }
    assert all("no question" in r.reason for r in verdict.strategies if r.reason)


def test_a_failed_strategy_costs_the_others_nothing(tmp_path, base):
    study = world.study_file(tmp_path, base, train={"max_forgetting": 0.0, "learning_rate": 5.0})
    verdict = decide(study, tmp_path / "run").verdict
    failed = verdict.strategies[1]
    assert failed.status == "failed" and " Fix: " in failed.reason
    assert verdict.recommendation.strategy == "zero_shot"
    assert (tmp_path / "run" / "manifest.json").exists()


def test_prompts_beyond_the_context_fail_one_strategy(tmp_path, tmp_path_factory):
    small = tiny_folder(tmp_path_factory.mktemp("small"), "gpt2")  # 256 learnt positions
    study = world.study_file(
        tmp_path,
        small,
        strategies=["few_shot", "lora"],
        prompting={"examples": 12, "context_tokens": 640},
    )
    verdict = decide(study, tmp_path / "run").verdict
    status = {r.name: r.status for r in verdict.strategies}
    assert status == {"zero_shot": "done", "few_shot": "failed", "lora": "done"}
    assert "exceed the context of 256 tokens" in verdict.strategies[1].reason
    with pytest.raises(ConfigError, match="exceed the context"):
        decide(study, tmp_path / "other", overrides=["evaluate.new_tokens=250"])


def test_a_score_of_another_task_is_refused_first(tmp_path, base):
    study = world.study_file(tmp_path, base, evaluate={"score": "accuracy"})
    with pytest.raises(ConfigError, match=r"evaluate\.score is 'accuracy', which answers"):
        decide(study, tmp_path / "run")
    assert not (tmp_path / "run" / "trials").exists()


def test_retention_files_hold_texts_or_choices(tmp_path, base):
    study = world.study_file(tmp_path, base, evaluate={"retention": "train.jsonl"})
    with pytest.raises(DataError, match=r"retention: .*train.jsonl holds chat rows"):
        decide(study, tmp_path / "run")


@pytest.mark.parametrize("given", [("test",), ("development",), ("test", "development")])
def test_parts_that_the_user_gives_are_used_as_given(tmp_path, base, given):
    parts = {"test": world.PLANTS[:4], "development": world.PLANTS[4:7]}
    own = {name: world.questions(parts[name]) for name in given}
    for name, rows in own.items():
        world.write_lines(tmp_path / f"{name}.jsonl", rows)
    study = world.study_file(
        tmp_path,
        base,
        world.questions(world.PLANTS[7:]),
        data={name: f"{name}.jsonl" for name in given},
    )
    decided = decide(study, tmp_path / "run")
    data = check_whole(decided, ["zero_shot", "lora"])
    found = {"test": data.test, "development": data.dev}
    for name, rows in own.items():
        assert {r.id for r in found[name]} == {r["id"] for r in rows}
    assert data.train and data.dev and data.test


def test_the_newest_rows_can_be_the_test(tmp_path, base):
    rows = [{**row, "date": f"20{n // 3 + 10}-01-01"} for n, row in enumerate(world.questions())]
    study = world.study_file(tmp_path, base, rows, data={"split_by_date": True})
    data = check_whole(decide(study, tmp_path / "run"), ["zero_shot", "lora"])
    assert max(r.date for r in (*data.train, *data.dev)) < min(r.date for r in data.test)


def test_one_test_item(tmp_path, base):
    study = world.study_file(tmp_path, base, evaluate={"items": 1, "new_tokens": 2})
    decided = decide(study, tmp_path / "run")
    check_whole(decided, ["zero_shot", "lora"])
    assert decided.data.tested == 1 and decided.data.detectable_measured is None


def test_more_items_than_there_are(tmp_path, base):
    study = world.study_file(tmp_path, base, evaluate={"items": 5000, "new_tokens": 2})
    decided = decide(study, tmp_path / "run")
    check_whole(decided, ["zero_shot", "lora"])
    assert decided.data.tested == decided.data.test


def test_planted_leaks_leave_the_training_rows(tmp_path, base):
    test = world.questions(world.PLANTS[:4])
    train = world.questions(world.PLANTS[4:])
    copies = [{**row, "id": f"leak-{n}", "group": f"own-{n}"} for n, row in enumerate(test[:5])]
    world.write_lines(tmp_path / "test.jsonl", test)
    study = world.study_file(tmp_path, base, [*train, *copies], data={"test": "test.jsonl"})
    decided = decide(study, tmp_path / "run")
    data = check_whole(decided, ["zero_shot", "lora"])
    aside = [x for x in data.set_aside if x.reason == "leaks_into_test"]
    assert {x.id for x in aside} == {row["id"] for row in copies}
    assert decided.data.set_aside == {"leaks_into_test": 5}
    assert sum(decided.data.leaks.values()) >= 5
    assert {row.id for row in data.test} == {row["id"] for row in test}
    assert not {row.id for row in data.train} & {row["id"] for row in copies}


def test_only_leaks_is_an_error(tmp_path, base):
    rows = world.questions(world.PLANTS[:6])
    world.write_lines(tmp_path / "test.jsonl", rows)
    renamed = [{**r, "id": f"x{n}", "group": f"g{n}"} for n, r in enumerate(rows)]
    study = world.study_file(tmp_path, base, renamed, data={"test": "test.jsonl"})
    with pytest.raises(DataError, match="Every training row stands in the test rows too"):
        decide(study, tmp_path / "run")


def test_a_share_of_a_file(tmp_path, base):
    study = world.study_file(tmp_path, base, data={"train": {"path": "train.jsonl", "share": 0.5}})
    decided = decide(study, tmp_path / "run")
    data = check_whole(decided, ["zero_shot", "lora"])
    unused = [x.id for x in data.set_aside if x.reason == "not_in_share"]
    assert 15 <= len(unused) <= 45
    # Whole groups go: the rest of a plant must not sneak into the test.
    used = {row.group for row in (*data.train, *data.dev, *data.test)}
    assert not used & {name.rsplit("-", 1)[0] for name in unused}


def test_preference_and_rated_files_teach_the_wanted_reply(tmp_path, base):
    asked = world.questions()
    preferences = [
        {"prompt": r["question"], "chosen": r["answer"], "rejected": "no", "group": r["group"]}
        for r in asked[:36]
    ]
    rated = [
        {
            "prompt": r["question"],
            "completion": r["answer"],
            "label": n % 3 > 0,
            "group": r["group"],
        }
        for n, r in enumerate(asked[36:])
    ]
    world.write_lines(tmp_path / "rated.jsonl", rated)
    study = world.study_file(
        tmp_path, base, preferences, data={"train": ["train.jsonl", "rated.jsonl"]}
    )
    decided = decide(study, tmp_path / "run")
    data = check_whole(decided, ["zero_shot", "lora"])
    unwanted = sum(not r["label"] for r in rated)
    assert Counter(x.reason for x in data.set_aside) == {"not_wanted": unwanted}
    assert {s.format for s in decided.data.sources} == {"preference", "rated"}
    assert all(row.answer != "no" for row in (*data.train, *data.dev, *data.test))


def test_retention_files_of_the_user_are_measured_too(tmp_path, base):
    world.write_lines(tmp_path / "general.jsonl", world.texts()[:4])
    world.write_lines(tmp_path / "quiz.jsonl", world.choices()[:3])
    study = world.study_file(
        tmp_path, base, evaluate={"retention": ["general.jsonl", "quiz.jsonl"]}
    )
    decided = decide(study, tmp_path / "run")
    kept = decided.folder / "trials/base/retention"
    assert len(world.read_lines(kept / "texts.jsonl")) == 6 + 4
    assert len(world.read_lines(kept / "choices.jsonl")) == 8 + 3


def test_too_small_a_test_set_is_refused_before_anything_is_measured(tmp_path, base):
    study = world.study_file(tmp_path, base, evaluate={"difference": 0.01})
    with pytest.raises(DataError, match="can show a difference of") as caught:
        decide(study, tmp_path / "run")
    assert "test items" in caught.value.fix
    assert not (tmp_path / "run" / "trials").exists()


def test_the_base_is_untouched_by_a_study(full, base):
    again = load_base(str(base), dtype="float32")
    assert again.sha256 == full.verdict.base["sha256"]


def test_long_development_rows_are_watched_in_part(monkeypatch):
    """Checks must not cost more than the training they watch."""
    from domainwright.models.forms import TrainRow
    from domainwright.studies import _watched

    rows = [TrainRow(str(n), [1] * 500, [True] * 500) for n in range(30)]
    monkeypatch.setattr(_watched, "encoded_rows", lambda *_: rows)
    monkeypatch.setattr(_watched, "limit", lambda *_: 1024)
    base = type("Base", (), {"template": None})
    assert len(_watched.watched_rows(base, rows, None)) == 12
    rows[:] = [TrainRow("0", [1] * 5000, [True] * 5000)] * 30
    assert len(_watched.watched_rows(base, rows, None)) == _watched.FEWEST_WATCHED
