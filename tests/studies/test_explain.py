"""What would change an answer, in figures one can check."""

from dataclasses import replace

from domainwright.studies._explain import would_change
from domainwright.studies.records import ConstantAnswer, Difference, Recommendation
from tests.studies import verdicts


def said(results, best, **changes):
    values = {"score": "token_f1", "tested": 60, "max_forgetting": 0.05}
    advice = Recommendation(strategy=best, sentence="", reasons=[])
    return would_change(results, advice, **values | changes)


def test_a_refused_strategy_names_the_limit_that_would_let_it_in():
    results = [
        verdicts.result("zero_shot", 0.2, None),
        verdicts.result("rag", 0.4, 0.2),
        verdicts.result("lora", 0.6, 0.4, lost=0.083, kind="method"),
        verdicts.result("prefix", 0.3, 0.1, lost=0.2, kind="method"),
    ]
    sentence, untried = said(results, "rag")
    assert sentence.startswith("With a limit of 0.09 nats per token or more for forgetting, lora")
    assert untried.startswith("lora+gated was not tried")
    assert said(results, "rag", max_forgetting=0.3) == []
    gated = verdicts.result("lora+gated", 0.6, 0.4, lost=0.0, kind="combination")
    assert not any("not tried" in x for x in said([*results, gated], "rag"))


def test_a_limit_of_a_task_is_named_beside_that_of_forgetting():
    lora = verdicts.result("lora", 0.6, 0.4, lost=0.083, kind="method")
    tasks = [replace(t, max_drop=0.01) for t in lora.retention.tasks]
    lora = replace(lora, retention=replace(lora.retention, tasks=tasks))
    results = [verdicts.result("zero_shot", 0.2, None), lora]
    # arc_easy fell by 0.0125; wikitext's bits fell, which is a gain.
    assert said(results, "zero_shot")[0].startswith(
        "With a limit of 0.09 nats per token or more for forgetting and a max_drop of 0.02 or more "
        "for arc_easy, lora"
    )
    alone = said(results, "zero_shot", max_forgetting=0.3)
    assert alone[0].startswith("With a max_drop of 0.02 or more for arc_easy, lora")


def lead(mean, half):
    difference = Difference(mean=mean, low=mean - half, high=mean + half, p=0.2, p_holm=0.4)
    return replace(verdicts.result("rag", 0.3, None), difference=difference)


def test_an_undecided_lead_names_the_items_that_would_decide_it():
    """An interval twice as wide as the lead needs four times the items."""
    base = verdicts.result("zero_shot", 0.2, None)
    (sentence,) = said([base, lead(0.04, 0.08)], "zero_shot")
    assert "about 240 could" in sentence and "60 test items cannot tell" in sentence
    assert said([base, lead(0.04, 0.03)], "zero_shot") == []  # decided
    assert said([base, lead(-0.04, 0.08)], "zero_shot") == []  # behind
    assert said([base, lead(0.01, 0.2)], "zero_shot") == []  # four hundred times the items


def test_an_undecided_lead_over_the_commonest_answer_names_them_too():
    base, lora = verdicts.result("zero_shot", 0.2, None), verdicts.result("lora", 0.6, 0.4)
    same = ConstantAnswer(
        answers={"": "fine"},
        score=verdicts.interval(0.56, 0.1),
        leads={"lora": verdicts.interval(0.04, 0.08), "zero_shot": verdicts.interval(-0.36, 0.1)},
    )
    (sentence,) = said([base, lora], "zero_shot", constant=same)
    assert sentence == (
        "lora is ahead of always answering “fine” by 0.04, which 60 test items cannot tell from "
        "luck; about 240 could."
    )


def learning(name, *, steps=60, best=60, last=1.6, **changes):
    """A strategy whose development loss was 2.0 before its last look."""
    looks = [(0, 3.0), (40, 2.0), (steps, last)]
    history = [{"step": n, "development_loss": loss} for n, loss in looks]
    trained = verdicts.training(steps=steps, best_step=best, history=history, minutes=2.0)
    made = verdicts.result(name, 0.3, 0.1, kind="method")
    return replace(made, training=trained, **changes)


def test_a_run_that_the_budget_ended_while_it_was_learning_says_so():
    lora = learning("lora", adapter="trials/lora/adapter")
    both = learning("lora+rag", adapter="trials/lora/adapter")
    found = said([verdicts.result("zero_shot", 0.2, None), lora, both], "lora", whole=150, runs=2.5)
    assert [x for x in found if "learning" in x] == [
        "lora was still learning when its 60 steps were over (development loss 2.000, then 1.600); "
        "the 150 of all its epochs would take about 8 minutes more of the budget."
    ]


def test_a_run_that_had_its_time_or_stood_still_says_nothing():
    whole = [learning("lora"), learning("dora", last=1.95), learning("full", best=40)]
    for result, steps in zip(whole, (64, 150, 150), strict=True):
        assert said([result], result.name, whole=steps) == []
    assert said([learning("lora")], "lora") == []
