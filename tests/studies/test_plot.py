"""Drawings that stand alone, and which strategies they grey."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from domainwright.core.errors import ConfigError, DataError
from domainwright.studies._pareto import dominated
from domainwright.studies.api import Decided
from domainwright.studies.costs import at_prices
from domainwright.studies.plot import draw
from domainwright.studies.prices import PriceSettings
from domainwright.studies.records import CurvePoint, LearningCurve
from domainwright.studies.report import render
from tests.studies.test_report import Page
from tests.studies.verdicts import interval, result, verdict, with_hostile_text

SVG = "{http://www.w3.org/2000/svg}"
KINDS = ("scores", "pareto", "curve")


def priced(*results, **changes):
    return at_prices(verdict(*results, **changes), PriceSettings(machine_hour=1.0, currency="EUR"))


def slow(one, seconds):
    return replace(one, seconds_per_answer=seconds)


PLAIN = result("zero_shot", 0.2, None)
RAG = slow(result("rag", 0.4, 0.2), 1.6)
LORA = result("lora", 0.5, 0.3, lost=0.03, kind="method")


def test_a_strategy_is_dominated_only_by_one_that_wins_nowhere_less():
    slower = slow(result("few_shot", 0.3, 0.1), 2.0)
    assert dominated(priced(PLAIN, RAG, slower, LORA)) == {"few_shot": "rag"}
    cheaper = slow(slower, 1.0)
    assert dominated(priced(PLAIN, RAG, cheaper, LORA)) == {}
    # Without prices rag gains more, and neither forgets.
    assert dominated(verdict(PLAIN, RAG, cheaper, LORA)) == {"zero_shot": "rag", "few_shot": "rag"}


def test_equals_do_not_dominate_each_other():
    assert dominated(priced(PLAIN, RAG, replace(RAG, name="rag_dense"))) == {}


def test_what_forgets_too_much_makes_nothing_superfluous():
    best = result("full", 0.9, 0.7, lost=0.2, kind="method")
    weak = result("lora", 0.3, 0.1, lost=0.3, kind="method")
    assert dominated(verdict(PLAIN, best, weak)) == {}
    assert dominated(verdict(PLAIN, best, weak, max_forgetting=0.25)) == {"lora": "full"}


def test_less_than_no_forgetting_is_no_merit():
    luck = result("lora", 0.3, 0.1, lost=-0.02, kind="method")
    assert dominated(verdict(PLAIN, luck, result("rag", 0.4, 0.2))) == {
        "zero_shot": "rag",
        "lora": "rag",
    }


def test_what_was_not_measured_takes_no_part():
    unknown = replace(LORA, retention=None)
    assert "lora" not in dominated(priced(PLAIN, RAG, unknown))
    assert ">lora</text>" not in draw(verdict(PLAIN, RAG, unknown), "pareto").svg


@pytest.mark.parametrize("kind", KINDS)
def test_a_plot_is_a_whole_file_of_its_own(tmp_path, kind):
    given = Decided(priced(), tmp_path)
    drawing = given.plot(kind)
    path = drawing.save(tmp_path / "new" / f"{kind}.svg")
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{SVG}svg" and float(root.get("height")) > 100
    assert path.read_text("utf-8") == drawing.svg == drawing._repr_svg_()
    style = root.find(f"{SVG}style").text
    assert "var(" not in style and "--" not in style
    # In a notebook it must not touch the page around it.
    rules = re.sub(r"@media\([^)]*\)\{(.*)\}$", r"\1", style)
    for selector in re.findall(r"([^{}]+)\{", rules):
        assert all(part.strip().startswith(".domainwright") for part in selector.split(","))
    assert not re.search(r"https?:(?!//www\.w3\.org)|url\(|<script|<image", drawing.svg)


def test_the_pareto_plot_has_units_limit_and_grey():
    many = PLAIN, RAG, slow(result("few_shot", 0.3, 0.1), 2.0), LORA
    svg = draw(priced(*many), "pareto").svg.replace("\u00a0", " ")
    assert "Forgetting in nats per token" in svg and "EUR in all over 12 months" in svg
    assert svg.count("gain: token F1, right is better") == 2
    assert "limit 0.05" in svg and svg.count('class="limit"') == 1
    assert svg.count('class="mark dominated"') == 3  # both maps and the legend
    assert "<title>few_shot (dominated)</title>" in svg
    assert (
        svg.count('class="interval thin dominated"') == 2
    )  # an arm only where there is an interval


def test_the_report_names_who_is_dominated_by_whom():
    page = Page(render(priced(PLAIN, RAG, slow(result("few_shot", 0.3, 0.1), 2.0), LORA))).text
    assert "Cost against gain" in page and "few_shot by rag" in page
    free = Page(render(verdict(PLAIN, RAG))).text
    assert "Cost against gain" not in free and "zero_shot by rag" in free


@pytest.mark.parametrize("cost", [0.0, 0.001, 1e6])
def test_costs_of_every_size_are_drawn(cost):
    dear = slow(result("rag", 0.4, 0.2), 5000.0)
    given = verdict(replace(PLAIN, seconds_per_answer=0.001), dear)
    svg = draw(at_prices(given, PriceSettings(machine_hour=cost)), "pareto").svg
    assert "nan" not in svg.lower() and svg.count('class="tick end"') >= 4


def test_the_curve_shows_training_and_rows():
    points = [CurvePoint(rows=n, loss=interval(2.0 - n / 900, 0.1)) for n in (200, 400, 800)]
    curve = LearningCurve(points=points, more=100, gain=interval(0.1, 0.02), advice="", method="x")
    given = verdict(learning_curve=curve)
    svg = draw(given, "curve").svg
    assert "x, by training rows" in svg and "lora+rag, lora" in svg
    assert "800 rows: 1.111 nats per token" in svg
    assert "800 rows: 1.111 nats per token" in render(given)


def test_a_wrong_kind_names_the_right_one():
    with pytest.raises(ConfigError, match=r"no plot called 'paretto'.\n  fix: use 'pareto'"):
        draw(verdict(), "paretto")
    with pytest.raises(ConfigError, match="use one of: scores, pareto, curve"):
        draw(verdict(), "bars")


def test_nothing_to_draw_is_said():
    alone = verdict(PLAIN, best="zero_shot")
    with pytest.raises(DataError, match="No strategy was trained, so medicines has no plot"):
        draw(alone, "curve")
    for kind in ("scores", "pareto"):
        with pytest.raises(DataError, match="Fewer than two strategies finished"):
            draw(alone, kind)


def test_only_svg_is_written(tmp_path):
    with pytest.raises(
        ConfigError, match=r"plot.png does not end in .svg.*\n.*save it as plot.svg"
    ):
        draw(verdict()).save(tmp_path / "plot.png")


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_names_stay_text(kind):
    given = with_hostile_text(priced(), "</style><script>alert(1)</script>'\">&")
    root = ElementTree.fromstring(draw(given, kind).svg)
    assert not [x for x in root.iter() if x.tag == f"{SVG}script"]
