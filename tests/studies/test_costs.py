"""Costs and benefits, against sums done by hand."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from domainwright.cli.main import app
from domainwright.core.errors import ConfigError
from domainwright.maths.bootstrap import Interval
from domainwright.studies.costs import at_prices, costs
from domainwright.studies.prices import PriceSettings, read_prices
from domainwright.studies.records import read_verdict
from tests.studies import verdicts


def strategy(name, seconds, *, score=0.5, minutes=None, tokens=(500.0, 20.0), prepare=0.0):
    made = verdicts.result(name, score, None)
    return replace(
        made,
        score=Interval(score, score - 0.1, score + 0.1),
        seconds_per_answer=seconds,
        prepare_seconds=prepare,
        tokens_in=tokens[0],
        tokens_out=tokens[1],
        training=verdicts.training(minutes=minutes) if minutes else None,
    )


def data(**changes):
    return replace(verdicts.verdict().data, train=900, development=100, **changes)


def by_name(found):
    return {c.strategy: c for c in found.strategies}


def test_machine_time_by_hand():
    """0.36 s at 10 an hour is 0.001 a question; two hours of training are 20."""
    book = PriceSettings(
        machine_hour=10, questions_month=1000, months=6, refreshes_year=4, storage_gb_month=0.5
    )
    found = costs(
        [strategy("zero_shot", 0.36), strategy("lora", 0.18, minutes=120)],
        book,
        data(),
        gigabytes={"lora": 0.2},
    )
    plain, lora = by_name(found)["zero_shot"], by_name(found)["lora"]
    assert plain.thousand == pytest.approx(1.0) and lora.thousand == pytest.approx(0.5)
    assert (plain.once, lora.once, lora.refresh) == (0, pytest.approx(20), pytest.approx(20))
    assert lora.storage_month == pytest.approx(0.1)
    # 20 once, two changes of 20 in half a year, 0.6 of storage, 6000 questions at 0.0005.
    assert lora.total == pytest.approx(20 + 40 + 0.6 + 3.0)
    assert plain.total == pytest.approx(6.0)
    assert found.first == "zero_shot"
    (turn,) = found.break_evens
    assert (turn.before, turn.after) == ("zero_shot", "lora")
    # 60.6 are saved at 0.5 a thousand over six months: 20,200 questions a month.
    assert turn.questions_month == pytest.approx(60.6 / 6 / 0.5 * 1000)
    at = replace(book, questions_month=turn.questions_month)
    there = by_name(
        costs(
            [strategy("zero_shot", 0.36), strategy("lora", 0.18, minutes=120)],
            at,
            data(),
            gigabytes={"lora": 0.2},
        )
    )
    assert there["lora"].total == pytest.approx(there["zero_shot"].total)


def test_bought_tokens_take_the_place_of_machine_time():
    book = PriceSettings(input_million=2.0, output_million=10.0, machine_hour=7)
    (found,) = costs([strategy("rag", 3.0)], book, data(), gigabytes={}).strategies
    assert found.thousand == pytest.approx(1000 * (500 * 2 + 20 * 10) / 1e6)


def test_labels_are_paid_by_those_that_need_rows():
    book = PriceSettings(label=2.0, machine_hour=0, refreshed=0.25, refreshes_year=1)
    names = ["zero_shot", "rag", "few_shot", "lora", "lora+rag"]
    rows = [strategy(n, 1.0, minutes=5 if "lora" in n else None) for n in names]
    found = by_name(costs(rows, book, data(), gigabytes={}))
    assert {n: c.once for n, c in found.items()} == {
        "zero_shot": 0, "rag": 0, "few_shot": 2000, "lora": 2000, "lora+rag": 2000,
    }  # fmt: skip
    assert found["lora"].refresh == pytest.approx(500)


def test_an_index_is_made_again_and_a_prompt_is_not():
    book = PriceSettings(machine_hour=36)
    rows = [strategy("rag", 1.0, prepare=50), strategy("zero_shot", 1.0)]
    found = by_name(costs(rows, book, data(), gigabytes={}))
    assert (found["rag"].refresh, found["zero_shot"].refresh) == (pytest.approx(0.5), 0)


def test_right_answers_are_weighed_against_wrong_ones():
    book = PriceSettings(right=3.0, wrong=1.0, questions_month=100, months=2, machine_hour=0)
    found = costs(
        [strategy("zero_shot", 1.0, score=0.2), strategy("lora", 9.0, score=0.6, minutes=9)],
        book,
        data(),
        gigabytes={},
    )
    lora = by_name(found)["lora"].benefit
    assert lora.mean == pytest.approx(200 * (0.6 * 3 - 0.4 * 1))
    assert (lora.low, lora.high) == (
        pytest.approx(200 * (0.5 * 3 - 0.5)),
        pytest.approx(200 * (0.7 * 3 - 0.3)),
    )
    assert by_name(found)["zero_shot"].benefit.mean == pytest.approx(200 * (0.2 * 3 - 0.8))
    assert found.first == "lora"


def test_what_the_order_hangs_on():
    """Answering is 1.1 times dearer without training: half the questions turn the order."""
    book = PriceSettings(machine_hour=10, questions_month=1e6, months=12, refreshes_year=0)
    rows = [strategy("zero_shot", 0.11), strategy("lora", 0.10, minutes=1500)]
    found = costs(rows, book, data(), gigabytes={})
    assert found.first == "lora"
    turns = {(s.price, s.scale): s.first for s in found.sensitivity if s.changes}
    assert turns == {("questions_month", 0.5): "zero_shot"}
    assert {s.price for s in found.sensitivity} == {
        "machine_hour", "storage_gb_month", "questions_month"
    }  # fmt: skip


def test_what_forgets_too_much_never_comes_first():
    book = PriceSettings(right=1.0)
    tuned = verdicts.result("lora", 0.9, 0.7, lost=0.2, kind="method")
    rows = [strategy("zero_shot", 0.2, score=0.2), tuned]
    assert costs(rows, book, data(), gigabytes={}).first == "lora"
    found = costs(rows, book, data(), gigabytes={}, max_forgetting=0.05)
    assert found.first == "zero_shot" and found.break_evens == []
    assert {c.strategy for c in found.strategies} == {"zero_shot", "lora"}
    # arc_easy fell by 0.0125.
    for limit, first in ((0.0125, "lora"), (0.012, "zero_shot")):
        tasks = [replace(task, max_drop=limit) for task in tuned.retention.tasks]
        limited = replace(tuned, retention=replace(tuned.retention, tasks=tasks))
        assert costs([rows[0], limited], book, data(), gigabytes={}).first == first


def test_what_is_cheaper_from_the_start_breaks_even_nowhere():
    rows = [strategy("zero_shot", 0.1), strategy("rag", 0.5, prepare=9)]
    assert costs(rows, PriceSettings(), data(), gigabytes={}).break_evens == []
    assert (
        costs([verdicts.absent("lora", "failed", "no")], PriceSettings(), data(), gigabytes={})
        is None
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"machine_hour": -1.0}, "prices.machine_hour is -1.0."),
        ({"label": float("inf")}, "prices.label is inf."),
        ({"months": 0.0}, "prices.months is 0.0."),
        ({"refreshed": 1.5}, "prices.refreshed is 1.5."),
        ({"input_million": 1.0}, "prices names one of input_million and output_million."),
    ],
)
def test_a_wrong_price_is_refused(settings, said):
    with pytest.raises(ConfigError) as caught:
        PriceSettings(**settings)
    assert caught.value.cause == said and caught.value.fix


def test_a_report_at_other_prices(tmp_path):
    """The price book is a file; the figures are the ones on the page."""
    verdict = verdicts.verdict()
    verdict = at_prices(verdict, PriceSettings(currency="EUR", right=0.5))
    from domainwright.core.artifacts import write_json

    write_json(tmp_path / "verdict.json", verdict.as_json())
    assert read_verdict(tmp_path / "verdict.json").costs == verdict.costs
    book = tmp_path / "book.yaml"
    book.write_text("currency: CHF\nmachine_hour: 3.6\nquestions_month: 5000\n")
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--prices", str(book)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_text()
    # 0.8 seconds at 0.001 a second.
    assert "0.800\u00a0CHF" in page and "Price book" in page and "5,000 questions a month" in page
    book.write_text("machine_hours: 3\n")
    with pytest.raises(ConfigError, match=r"book\.yaml has no setting 'machine_hours'"):
        read_prices(book)
    with pytest.raises(ConfigError, match="There is no price book"):
        read_prices(tmp_path / "none.yaml")
