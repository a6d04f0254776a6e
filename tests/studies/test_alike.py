"""Labels of which one has nearly every row: each counts alike, in training and in the verdict."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from typer.testing import CliRunner

from domainwright.cli.main import app
from domainwright.core.errors import ConfigError
from domainwright.core.records import Chat, Choice, Message
from domainwright.maths.bootstrap import Interval
from domainwright.methods.lora import Lora, LoraSettings
from domainwright.models.forms import TrainRow
from domainwright.studies import _facts
from domainwright.studies._alike import (
    counted_alike,
    equal_shares,
    read_alike,
    weighed_alike,
    weights_of,
)
from domainwright.studies.api import decide
from domainwright.studies.by_task import by_task
from domainwright.studies.costs import costs
from domainwright.studies.data import prepare
from domainwright.studies.inflation import inflation
from domainwright.studies.judge import compare, measured_detectable, summarise
from domainwright.studies.prices import PriceSettings
from domainwright.studies.records import Answered
from domainwright.studies.report import render
from domainwright.studies.study import read_study
from domainwright.train.order import Order
from domainwright.train.step import mean_loss
from tests.studies import verdicts, world
from tests.studies.test_by_task import item
from tests.tiny import tiny_base

LABELS = ("fraud", "fine")


def rows(fraud, fine, start=0, choices=LABELS):
    return [
        Choice(
            id=f"c{start + n}", group=f"g{start + n}", file="f", line=1, question=f"payment {n}",
            choices=choices, answer=int(n >= fraud),
        )
        for n in range(fraud + fine)
    ]  # fmt: skip


def settings(tmp_path, **evaluate):
    file = tmp_path / "study.yaml"
    lines = {"base": "x", "data": {"train": "t.csv"}, "evaluate": evaluate}
    file.write_text(json.dumps(lines))
    return read_study(file)


class TestWhether:
    def test_one_label_has_most_rows(self, tmp_path):
        study = settings(tmp_path)
        assert counted_alike(study, {"train": rows(30, 200)})
        assert not counted_alike(study, {"train": rows(60, 200)})

    def test_too_few_of_the_rare_ones_would_be_tested(self, tmp_path):
        study = settings(tmp_path)
        assert not counted_alike(study, {"train": rows(24, 400)})
        assert counted_alike(study, {"train": rows(25, 400)})
        given = {"train": rows(100, 900), "test": rows(4, 96, start=1000)}
        assert not counted_alike(study, given)
        assert counted_alike(study, given | {"test": rows(5, 96, start=1000)})

    def test_the_user_decides(self, tmp_path):
        asked = settings(tmp_path, score="balanced_accuracy")
        assert counted_alike(asked, {"train": rows(100, 100)})
        assert not counted_alike(settings(tmp_path, score="accuracy"), {"train": rows(30, 300)})

    def test_it_needs_labels(self, tmp_path):
        turns = (Message("user", "?"), Message("assistant", "fine"))
        chats = [Chat(id=str(n), group="", file="", line=1, messages=turns) for n in range(300)]
        several = rows(20, 200) + rows(5, 20, start=500, choices=("a", "b"))
        asked = settings(tmp_path, score="balanced_accuracy")
        for none in (chats, several):
            assert not counted_alike(settings(tmp_path), {"train": none})
            with pytest.raises(ConfigError, match="no rows of a few labels"):
                counted_alike(asked, {"train": none})


def marked(truth, replies):
    weight = weights_of(truth, "balanced_accuracy")
    return [
        replace(
            item(row.id, float(row.choices[row.answer] == reply)),
            reference=row.choices[row.answer],
            reply=reply,
            weight=weight[row.choices[row.answer]],
        )
        for row, reply in zip(truth, replies, strict=True)
    ]


class TestVerdict:
    @pytest.fixture
    def items(self):
        """30 fraud of 300: the base says "fine" to all, the tuned model finds two thirds."""
        rng, truth = np.random.default_rng(0), rows(30, 270)
        right = [row.choices[row.answer] for row in truth]
        kept = rng.random(300) < np.where(np.array(right) == "fraud", 0.66, 0.95)
        other = ["fine" if x == "fraud" else "fraud" for x in right]
        return {
            "zero_shot": marked(truth, ["fine"] * 300),
            "lora": marked(truth, list(np.where(kept, right, other))),
        }

    def test_scores_are_scikit_learns(self, items):
        truth = [x.reference for x in items["lora"]]
        for own in items.values():
            found, replies = summarise(own)["score"], [x.reply for x in own]
            assert found.mean == pytest.approx(balanced_accuracy_score(truth, replies))
            assert 0 <= found.low <= found.high <= 1
        assert summarise(items["zero_shot"])["score"] == Interval(*[pytest.approx(0.5)] * 3)

    def test_the_difference_is_decided_where_accuracy_could_not(self, items):
        found = compare(items)["lora"]
        assert found.mean == pytest.approx(0.3, abs=0.1)
        assert found.p < 0.001 and found.mcnemar is None
        assert found.low > 0.1
        plain = {k: [replace(x, weight=1.0) for x in own] for k, own in items.items()}
        assert compare(plain)["lora"].low < 0.0
        # The same bootstrap over pairs, with the ratio itself.
        truth = np.array([x.reference for x in items["lora"]])
        replies = np.array([x.reply for x in items["lora"]])
        picks = np.random.default_rng(3).integers(0, 300, (2000, 300))
        drawn = [balanced_accuracy_score(truth[p], replies[p]) - 0.5 for p in picks]
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert found.high - found.low == pytest.approx(high - low, rel=0.1)
        error = (high - low) / 3.92
        assert measured_detectable(items, "lora") == pytest.approx(2.8 * error, rel=0.1)

    def test_a_task_is_balanced_in_itself(self, items):
        tasks = {x.id: "ab"[n % 3 == 0] for n, x in enumerate(items["lora"])}
        for found in by_task(items, tasks):
            own = [x for x in items[found.strategy] if tasks[x.id] == found.task]
            wanted = balanced_accuracy_score([x.reference for x in own], [x.reply for x in own])
            assert found.score.mean == pytest.approx(wanted)

    def test_what_is_given_away_is_balanced_in_itself(self, items):
        (found,) = inflation(items, "zero_shot", {f"c{n}" for n in range(0, 300, 4)})
        own = items["lora"]
        clean = [x for n, x in enumerate(own) if n % 4]
        for score, part in ((found.score, own), (found.clean, clean)):
            wanted = balanced_accuracy_score([x.reference for x in part], [x.reply for x in part])
            assert score.mean == pytest.approx(wanted)
        assert found.memory.low < 0 < found.memory.high


class TestTraining:
    def test_labels_are_read_equally_often(self):
        truth = rows(12, 108)
        read = read_alike([TrainRow(row.id, [1, 2], [False, True]) for row in truth], truth)
        shares = equal_shares(read)
        assert shares == {"fraud": 0.5, "fine": 0.5}
        order = Order(read, 8, seed=0, shares=shares)
        for step in range(30):
            assert abs(sum(row.label == "fraud" for row in order.step(step)) - 4) <= 1
        epoch = [row.id for step in range(15) for row in order.step(step) if row.label == "fraud"]
        assert len(epoch) == 60 and len(set(epoch)) == 12

    def test_general_documents_keep_their_weight(self):
        truth = rows(2, 8)
        documents = [TrainRow(row.id, [1, 2], [False, True]) for row in truth]
        found = weighed_alike([*documents, TrainRow("text#0", [1, 2], [True, True])], truth)
        assert [row.weight for row in found] == [2.5] * 2 + [0.625] * 8 + [1.0]


def test_what_answers_are_worth_follows_from_the_labels_shares():
    """Half of the frauds and all fine ones are told; of all rows one in a hundred is fraud."""
    counts = [("fraud", "fraud", 10), ("fraud", "fine", 10), ("fine", "fine", 80)]
    answers = [
        Answered(group=f"{true} {said} {n}", true=true, answered=said, items=1)
        for true, said, number in counts
        for n in range(number)
    ]
    half = replace(verdicts.result("zero_shot", 0.75, None), answered=answers)
    book = PriceSettings(right=1.0, wrong=1.0, machine_hour=0.0, months=1, questions_month=1000)
    data = replace(verdicts.verdict().data, labels={"fraud": 0.01, "fine": 0.99})
    for errors, wrong in (({}, 1.0), ({"fraud": {"fine": 30.0}}, 30.0)):
        priced = replace(book, errors=errors)
        (found,) = costs([half], priced, data, gigabytes={}).strategies
        assert found.benefit.mean == pytest.approx(1000 * (0.99 + 0.01 * (0.5 - 0.5 * wrong)))
        assert found.benefit.low < found.benefit.mean < found.benefit.high
    unseen = replace(data, labels={"fraud": 0.01, "fine": 0.89, "odd": 0.1})
    (found,) = costs([half], book, unseen, gigabytes={}).strategies
    assert found.benefit.mean == pytest.approx(1000 * 0.89 / 0.9)
    (plain,) = costs([half], book, verdicts.verdict().data, gigabytes={}).strategies
    assert plain.benefit.mean == pytest.approx(500.0)


def test_rare_labels_are_asked_and_watched_first(tmp_path, base):
    file = world.study_file(tmp_path, base, data={"train": "payments.csv"})
    write_payments(tmp_path / "payments.csv", fraud=40, fine=1960)
    found = prepare(read_study(file), tmp_path / "run")
    asked = [row.choices[row.answer] for row in found.test_items(30, seed=0)]
    there = sum(row.choices[row.answer] == "fraud" for row in found.split.test)
    assert asked.count("fraud") == min(there, 15) >= 5
    watched = [row.choices[row.answer] for row in found.split.dev]
    own = watched.count("fraud")
    assert watched[: 2 * own].count("fraud") == own > 0
    told = found.record(found.test_items(30, 0), 0.1).labels
    assert told["fraud"] == pytest.approx(there / len(found.split.test))


class TestDevelopmentLoss:
    def test_rows_weigh_in_it(self):
        base = tiny_base()
        rng = np.random.default_rng(0)
        documents = [
            TrainRow(str(n), rng.integers(5, 90, 6).tolist(), [False] * 3 + [True] * 3, weight=w)
            for n, w in enumerate((2.0, 0.5, 0.5))
        ]
        adapter = Lora.build(base, LoraSettings(rank=2), seed=0)
        job = SimpleNamespace(base=base, adapter=adapter, micro_tokens=2048)
        alone = [mean_loss(job, [replace(row, weight=1.0)]) for row in documents]
        assert mean_loss(job, documents) == pytest.approx(np.average(alone, weights=(4, 1, 1)))
        plain = [replace(row, weight=1.0) for row in documents]
        assert mean_loss(job, plain) == pytest.approx(np.mean(alone))


def write_payments(path, fraud=40, fine=260):
    """A word tells fraud."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for n in range(fraud + fine):
            word = "abroad" if n < fraud else "here"
            out.writerow([f"payment {n} made {word}", LABELS[n >= fraud]])


@pytest.mark.usefixtures("quick")
class TestStudy:
    CHANGES = {  # noqa: RUF012
        "strategies": ["zero_shot", "lora"],
        "data": {"train": "payments.csv"},
        "evaluate": {"items": 60},
        "train": {"steps": 40, "batch": 8, "learning_rate": 0.02},
    }

    def test_the_rare_label_is_learned_and_counts(self, tmp_path, base):
        file = world.study_file(tmp_path, base, **self.CHANGES)
        write_payments(tmp_path / "payments.csv")
        verdict = decide(file, tmp_path / "run").verdict
        assert verdict.score == "balanced_accuracy"
        assert verdict.constant.score.mean == pytest.approx(0.5)
        lora = next(r for r in verdict.strategies if r.name == "lora")
        assert verdict.recommendation.strategy == "lora" and lora.score.mean > 0.9
        assert "balanced accuracy" in verdict.recommendation.sentence
        assert any(
            "every label counts alike" in reason for reason in verdict.recommendation.reasons
        )
        assert lora.training.settings["shares"] == {"fine": 0.5, "fraud": 0.5}
        lines = (tmp_path / "run" / "trials" / "lora" / "scorecard" / "items.jsonl").read_text()
        weight = {x["reference"]: x["weight"] for x in map(json.loads, lines.splitlines())}
        assert weight["fraud"] > 2 > 1 > weight["fine"]
        right = next(row for row in _facts.by_label(verdict) if row[0] == "fraud")[2]["lora"]
        assert f"lora is right in {right} of" in _facts.right_by_label(verdict)
        assert "Right, label by label" in render(verdict)
        again = decide(file, tmp_path / "run", resume=True).verdict
        assert again.strategies == verdict.strategies

    @pytest.mark.parametrize("more", [(), ("--set", "evaluate.score=accuracy_norm")])
    def test_a_single_training_says_how_it_reads(self, tmp_path, base, more):
        changes = world.merged(self.CHANGES, {"train": {"steps": 2}})
        file = world.study_file(tmp_path, base, **changes)
        write_payments(tmp_path / "payments.csv")
        asked = ["train", str(file), "--method", "ia3", "-o", str(tmp_path / "run"), *more]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, done.stderr
        assert ("read equally often" in done.stdout) == (not more)

    def test_every_row_counts_alike_where_the_user_says_so(self, tmp_path, base):
        changes = world.merged(self.CHANGES, {"evaluate": {"score": "accuracy_norm"}})
        file = world.study_file(tmp_path, base, **changes)
        write_payments(tmp_path / "payments.csv")
        verdict = decide(file, tmp_path / "run").verdict
        assert (verdict.score, verdict.constant.score.mean > 0.8) == ("accuracy_norm", True)
        assert "label by label" not in render(verdict)
        lora = next(r for r in verdict.strategies if r.name == "lora")
        assert "shares" not in lora.training.settings
