"""The verdict in the terminal: plain, complete, and no wider than eighty columns."""

import io
import re

import pytest
from rich.console import Console

from domainwright.studies import _format as f
from domainwright.studies.table import _name, render_table, verdict_rows
from tests.studies.verdicts import absent, result, verdict


def printed(given, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render_table(given))
    return console.file.getvalue()


def test_every_strategy_has_a_full_row_and_the_best_comes_first():
    heading, rows = verdict_rows(verdict())
    assert all(len(row) == len(heading) == 9 for row in rows)
    assert [row[0] for row in rows] == ["lora+rag", "lora *", "rag", "zero_shot", "prefix", "qlora"]
    assert rows[1][1:] == [
        "0.44 [0.39, 0.49]",
        "+0.26 [+0.22, +0.30]",
        "+0.031",
        "520+14",
        "0.80",
        "3.9",
        "2.3",
        "4.88M",
    ]


def test_marks_what_is_not_decided_over_the_limit_or_without_change():
    _, rows = verdict_rows(verdict())
    assert rows[0][3] == "+0.060!"
    assert rows[2][2] == "+0.03 ? [-0.01, +0.07]" and rows[2][3] == "same"
    assert rows[3][2] == "" and rows[4][1] == "failed" and rows[5][1] == "skipped"


@pytest.mark.parametrize("score", ["token_f1", "accuracy_norm", "negative_bits_per_byte"])
@pytest.mark.parametrize("width", [80, 100])
def test_no_number_is_cut(score, width):
    names = ["ptuning_v2", "bottleneck+few_shot", "instruction_prompt"]
    results = [result("zero_shot", -0.2, None)]
    results += [
        result(name, -0.4 - n / 100, 0.3, lost=0.06, kind="method") for n, name in enumerate(names)
    ]
    given = verdict(*results, absent("prefix", "failed", "x"), score=score)
    text = printed(given, width)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    for row in verdict_rows(given)[1]:
        for number in re.findall(r"[-+]?\d[\d.,]*[%\w]*", " ".join(row[1:])):
            assert number in text


def test_brackets_in_a_name_are_no_markup():
    given = verdict(result("zero_shot", 0.2, None), result("[red]x", 0.4, 0.2), best="[red]x")
    assert "[red]x" in printed(given, 100)


def test_is_plain_ascii():
    printed(verdict(), 80).encode("ascii")


@pytest.mark.parametrize(("low", "high"), [(0.0001, 0.2), (-0.2, -0.0001), (0.004, 0.2)])
def test_an_interval_without_zero_is_not_printed_as_if_it_reached_it(low, high):
    ends = f.triple((low + high) / 2, low, high, least=2, sign=True).partition("[")[2]
    assert all(float(x.strip("] ")) != 0 for x in ends.split(","))


def test_axis_labels_are_exact():
    assert f.exact([0.025, 0.05]) == 3 and f.exact([0.0]) == 0
    assert f.UNITS["accuracy"].ticks([-0.1, 0.0, 0.1]) == ["-10", "0", "+10"]
    assert f.UNITS["negative_bits_per_byte"].ticks([0.0, 0.05]) == ["0.00", "-0.05"]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("rag_few_shot", ["rag_", "few_shot"]),
        ("few_shot_random", ["few_shot_", "random"]),
        ("multitask_prompt", ["multitask_", "prompt"]),
        ("lora+rag", ["lora+rag"]),
    ],
)
def test_a_long_name_is_cut_at_the_first_word_after_which_the_rest_fits(name, lines):
    assert _name(name).split("\n") == lines
