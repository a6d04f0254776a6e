"""The commonest answer, given to every question: what has to be beaten."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from domainwright.core.records import Chat, Choice, Extraction, Message
from domainwright.evaluate.records import Mark
from domainwright.maths.bootstrap import Interval
from domainwright.studies.constant import commonest, constant
from domainwright.studies.judge import compare, recommend, summarise
from domainwright.studies.records import ConstantAnswer
from domainwright.studies.report import render
from domainwright.studies.table import render_table
from tests.studies import verdicts
from tests.studies.test_by_task import item

LABELS = ("fine", "fraud", "unclear")


def choice(number, answer):
    return Choice(
        id=f"c{number}", group="", file="", line=1, question="?", choices=LABELS, answer=int(answer)
    )


def chat(number, answer, kind=Chat, **more):
    turns = (Message("user", "?"), Message("assistant", answer))
    return kind(id=f"c{number}", group="", file="", line=1, messages=turns, **more)


def data(rows, tasks=None, of_lm_eval=None):
    return SimpleNamespace(
        split=SimpleNamespace(train=rows), tasks=tasks or {}, of_lm_eval=of_lm_eval
    )


def test_its_score_is_that_of_scikit_learns_dummy():
    rng = np.random.default_rng(0)
    train, test = rng.choice(3, 200, p=(0.2, 0.7, 0.1)), rng.choice(3, 90, p=(0.3, 0.6, 0.1))
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((200, 1)), train)
    asked = [
        replace(item(f"t{n}", rng.random()), reference=LABELS[label])
        for n, label in enumerate(test)
    ]
    rows = [choice(n, label) for n, label in enumerate(train)]
    found = constant({"zero_shot": asked}, data(rows), "accuracy")
    assert found.answers == {"": "fraud"}
    right = np.array([label == 1 for label in test])
    assert found.score.mean == pytest.approx(dummy.score(np.zeros((90, 1)), test))
    own = np.array([x.mark.correct for x in asked])
    assert found.leads["zero_shot"].mean == pytest.approx((own - right).mean())


def test_written_answers_are_marked_as_replies_are():
    rows = [chat(n, answer) for n, answer in enumerate(["not known"] * 3 + ["two bar", "six bar"])]
    asked = [replace(item(f"t{n}", 0), reference=r) for n, r in enumerate(["not known", "known"])]
    found = constant({"zero_shot": asked}, data(rows), "token_f1")
    assert found.score.mean == pytest.approx((1 + 2 / 3) / 2)
    assert constant({"zero_shot": asked}, data(rows), "exact_match").score.mean == 0.5


def test_every_task_has_its_own():
    rows = [chat(n, "yes") for n in range(5)] + [choice(n, 2) for n in range(5, 8)]
    tasks = {f"c{n}": "claims" for n in range(5, 8)} | {"t0": "claims", "t1": "unknown"}
    asked = [replace(item(f"t{n}", 0), reference="unclear") for n in range(2)]
    found = constant({"zero_shot": asked}, data(rows, tasks), "accuracy")
    assert found.answers == {"": "yes", "claims": "unclear"} and found.score.mean == 0.5
    assert found.said == "always giving the commonest answer of each task"


def test_no_two_rows_alike_have_none():
    rows = [chat(n, f"answer {n}") for n in range(9)]
    asked = {"zero_shot": [item("t0", 0)]}
    assert commonest(rows, {}) == {} and constant(asked, data(rows), "token_f1") is None
    found = [chat(n, "", Extraction, words=(), tags=(), kinds=(), ask="") for n in range(9)]
    assert constant(asked, data(found), "entity_f1") is None
    alike = [choice(n, 0) for n in range(9)]
    assert constant(asked, data(alike, of_lm_eval=object()), "acc") is None
    assert constant(asked, data(alike), "accuracy") is not None


def decided(marks, same):
    """Advice where every strategy was marked so, and the commonest answer as `same`."""
    given = {
        name: [replace(item(f"t{n}", x), mark=Mark(float(x), True)) for n, x in enumerate(row)]
        for name, row in marks.items()
    }
    references = ["fine" if alike else "fraud" for alike in same]
    asked = zip(given["zero_shot"], references, strict=True)
    right = [replace(x, reference=reference) for x, reference in asked]
    rows = [choice(0, 0), choice(1, 0)]
    found = constant(given | {"zero_shot": right}, data(rows), "accuracy")
    differences = compare(given)
    results = [
        replace(
            verdicts.result(name, 0.0, None, lost=0.0 if name == "lora" else None),
            **(summarise(own) | {"tokens_in": 500.0 if name == "lora" else 100.0}),
            difference=differences.get(name),
        )
        for name, own in given.items()
    ]
    return recommend(results, given, score="accuracy", max_forgetting=0.05, constant=found)


MOSTLY = [1] * 36 + [0] * 4


def test_what_only_gives_the_commonest_answer_has_learned_nothing():
    advice = decided({"zero_shot": [0] * 40, "few_shot": MOSTLY[::-1], "lora": MOSTLY}, MOSTLY)
    assert advice.strategy == "zero_shot"
    assert advice.sentence == (
        "Keep the untouched base with a plain prompt: no strategy is significantly better than "
        "always answering “fine” (accuracy 90.0 %; the base: 0.0 %)."
    )
    assert any(
        r.startswith("lora and always answering “fine” cannot be told apart (0.0 pp")
        for r in advice.reasons
    )


def test_what_is_worse_than_the_commonest_answer_is_called_so():
    half = [1, 0] * 20
    advice = decided({"zero_shot": [0] * 40, "lora": half}, [1] * 38 + [0] * 2)
    assert advice.strategy == "zero_shot"
    assert any(r.startswith("lora is worse than always answering “fine”") for r in advice.reasons)


def test_what_is_cheaper_but_has_learned_nothing_is_no_equal():
    """few_shot cannot be told from lora, nor from the commonest answer, which lora beats."""
    lora, few = [1] * 36 + [0] * 4, [1] * 33 + [0] * 7
    same = [1] * 29 + [0] * 11
    advice = decided({"zero_shot": [0] * 40, "few_shot": few[::-1], "lora": lora}, same)
    assert advice.strategy == "lora"
    assert any(r.startswith("few_shot and always answering") for r in advice.reasons)
    lower = decided({"zero_shot": [0] * 40, "few_shot": few[::-1], "lora": lora}, [0] * 40)
    assert lower.strategy == "few_shot"


def test_table_and_report_name_it():
    same = ConstantAnswer(
        answers={"": "This claim is in good order and may be paid <b>at once</b>"},
        score=Interval(0.4, 0.3, 0.5),
        leads={"zero_shot": Interval(-0.22, -0.3, -0.1)},
    )
    assert same.said == "always answering “This claim is in good order and may be…”"
    verdict = verdicts.verdict(constant=same)
    assert f"{same.said}: 0.40 [0.30, 0.50]" in render_table(verdict).caption.plain
    page = render(verdict)
    assert f"For comparison, {same.said}:" in page and "<b>at once" not in page
    # What beats a base that is better beats it, too.
    below = verdicts.verdict(constant=replace(same, leads={"zero_shot": Interval(0.1, 0.05, 0.2)}))
    assert same.said not in render_table(below).caption.plain and same.said not in render(below)
