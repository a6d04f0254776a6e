"""What errors cost by their labels, against sums done by hand."""

import json
from dataclasses import replace

import pytest

from domainwright.core.errors import ConfigError
from domainwright.evaluate.records import Item, Mark
from domainwright.studies.api import decide
from domainwright.studies.confusion import answered, labels_in
from domainwright.studies.costs import at_prices, costs
from domainwright.studies.prices import PriceSettings
from domainwright.studies.records import Answered, read_verdict
from domainwright.studies.report import render
from tests.studies import verdicts, world
from tests.studies.test_report import Page

BOOK = PriceSettings(
    right=2.0,
    wrong=1.0,
    errors={"ill": {"healthy": 50.0, "other": 5.0}},
    machine_hour=0.0,
    questions_month=100.0,
    months=2.0,
)


def item(reference, reply, group="g"):
    return Item(
        id=f"{reference}{reply}",
        group=group,
        question="?",
        reference=reference,
        reply=reply,
        mark=Mark(float(reference == reply), True),
    )


def answers(*counts):
    return [
        Answered(group=f"g{n}", true=t, answered=a, items=k) for n, (t, a, k) in enumerate(counts)
    ]


def strategy(name, *counts):
    return replace(verdicts.result(name, 0.5, None), answered=answers(*counts))


CAREFUL = ("ill", "ill", 3), ("healthy", "ill", 4), ("healthy", "healthy", 3)
BOLD = ("ill", "ill", 2), ("ill", "healthy", 1), ("healthy", "healthy", 7)


def test_benefits_by_hand():
    """Bold is right 9 times in 10, careful 6 times; but bold tells one ill person the wrong thing.

    careful: (3 + 3) · 2 - 4 · 1 = 8 in ten answers, bold: (2 + 7) · 2 - 50 = -32. Two months of a
    hundred questions are twenty times ten answers.
    """
    given = [strategy("careful", *CAREFUL), strategy("bold", *BOLD)]
    found = costs(given, BOOK, verdicts.verdict().data, gigabytes={})
    careful, bold = (c.benefit for c in found.strategies)
    assert careful.mean == pytest.approx(20 * 8) and bold.mean == pytest.approx(20 * -32)
    assert careful.low < careful.mean < careful.high
    assert found.first == "careful"
    plain = costs(given, replace(BOOK, errors={}), verdicts.verdict().data, gigabytes={})
    # Without the matrix both have the same score.
    assert plain.strategies[0].benefit == plain.strategies[1].benefit


def test_what_is_no_label_has_its_own_price():
    found = costs(
        [strategy("rag", ("ill", "other", 1), ("healthy", "other", 1), ("ill", "ill", 2))],
        BOOK,
        verdicts.verdict().data,
        gigabytes={},
    )
    assert found.strategies[0].benefit.mean == pytest.approx(200 * (2 * 2 - 5 - 1) / 4)


def test_errors_alone_are_weighed_too():
    book = replace(BOOK, right=None)
    (one,) = costs(
        [strategy("bold", *BOLD)], book, verdicts.verdict().data, gigabytes={}
    ).strategies
    assert book.weighed and one.benefit.mean == pytest.approx(200 * -50 / 10)


def test_answers_are_counted_by_group_and_label():
    items = [
        item("ill", "ill", "a"), item("ill", " Healthy.", "a"), item("ill", "ill", "a"),
        item("healthy", "healthy", "b"), item("healthy", "who knows", "b"),
    ]  # fmt: skip
    found = {(x.group, x.true, x.answered): x.items for x in answered(items)}
    assert found == {
        ("a", "ill", "ill"): 2,
        ("a", "ill", "healthy"): 1,
        ("b", "healthy", "healthy"): 1,
        ("b", "healthy", "other"): 1,
    }


@pytest.mark.parametrize(
    ("references", "labels"),
    [
        (["a", "b"] * 2, ["a", "b"]),
        (["a", "b", "c"], []),
        (["a"] * 9, []),
        ([f"text {n}" for n in range(40)], []),
        ([str(n % 21) for n in range(99)], []),
        ([], []),
    ],
)
def test_labels_are_few_and_come_back(references, labels):
    assert labels_in(references) == labels


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({"ill": {"healthy": -1.0}}, "prices.errors.ill.healthy is -1.0."),
        ({"ill": {"healthy": "much"}}, "prices.errors.ill.healthy is 'much'."),
        ({"ill": 5.0}, "prices.errors.ill is 5.0."),
        ({True: {"no": 5.0}}, "prices.errors names True, which is no text."),
        ({"ill": {"ill": 5.0}}, "prices.errors.ill.ill is no error."),
    ],
)
def test_a_wrong_matrix_is_refused(errors, said):
    with pytest.raises(ConfigError) as caught:
        PriceSettings(errors=errors)
    assert caught.value.cause == said and caught.value.fix


def test_labels_that_are_not_there_are_refused():
    given = verdicts.verdict(strategy("zero_shot", *CAREFUL), best="zero_shot")
    with pytest.raises(ConfigError, match=r"names 'sick', which is no label.*\n.*healthy, ill"):
        at_prices(given, replace(BOOK, errors={"sick": {"healthy": 1.0}}))
    with pytest.raises(ConfigError, match="the answers of the test items are no labels"):
        at_prices(verdicts.verdict(), BOOK)


def test_the_report_has_what_the_sum_needs():
    given = verdicts.verdict(
        strategy("zero_shot", *CAREFUL), strategy("bold", *BOLD), best="zero_shot"
    )
    text = Page(render(at_prices(given, BOOK))).text
    assert "Labels answered" in text and "ill healthy −50 0 1" in text
    assert "ill answered healthy 50" in text and "160.00 USD" in text


def labelled():
    """Forty rows in twenty groups; every second answer is "yes"."""
    return [
        {**row, "choices": ["yes", "no"], "answer": place % 2}
        for place, row in enumerate(world.choices()[:40])
    ]


def test_a_study_of_labels(quick, base, tmp_path):
    prices = {"right": 1.0, "errors": {"yes": {"no": 10.0}}}
    study = world.study_file(
        tmp_path, base, labelled(), prices=prices, strategies=["zero_shot"],
        evaluate={"items": 8},
    )  # fmt: skip
    decide(study, tmp_path / "run")
    found = read_verdict(tmp_path / "run/verdict.json")
    (plain,) = found.strategies
    tested = found.data.tested
    assert sum(x.items for x in plain.answered) == tested >= 4
    lost = sum(x.items for x in plain.answered if (x.true, x.answered) == ("yes", "no"))
    right = sum(x.items for x in plain.answered if x.true == x.answered)
    (cost,) = found.costs.strategies
    assert cost.benefit.mean + cost.total == pytest.approx(120_000 * (right - 10 * lost) / tested)
    assert json.loads((tmp_path / "run/verdict.json").read_text())["costs"]["prices"]["errors"]


def test_a_study_with_strange_labels_is_refused_before_anything_is_asked(quick, base, tmp_path):
    prices = {"errors": {"maybe": {"no": 10.0}}}
    study = world.study_file(tmp_path, base, labelled(), prices=prices, evaluate={"items": 8})
    asked = []
    with pytest.raises(ConfigError, match=r"prices\.errors names 'maybe'"):
        decide(study, tmp_path / "run", listen=lambda step: asked.append(step.stage))
    assert "zero_shot" not in asked and "train lora" not in asked
