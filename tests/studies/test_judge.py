"""From marks to advice, with items made by hand."""

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from domainwright.evaluate.kept import TaskKept
from domainwright.evaluate.records import Item, Mark
from domainwright.maths.bootstrap import Interval
from domainwright.maths.crossfit import crossfitted
from domainwright.studies.judge import (
    compare,
    lead,
    measured_detectable,
    recommend,
    score_of,
    summarise,
)
from tests.studies.verdicts import absent, result


def items(marks, groups=None, *, tokens=100, loss=None):
    return [
        Item(
            id=f"i{n}",
            group=groups[n] if groups else f"g{n}",
            question="",
            reference="",
            reply="",
            mark=Mark(float(mark), True),
            tokens_in=tokens,
            loss=None if loss is None else loss + 0.1 * (n % 3),
            loss_tokens=0 if loss is None else 10,
        )
        for n, mark in enumerate(marks)
    ]


def study(
    marks, *, lost=None, tokens=None, score="exact_match", limit=0.05, failed=(), losses=None
):
    """Advice on strategies given by their marks."""
    given = {name: items(m, loss=(losses or {}).get(name)) for name, m in marks.items()}
    differences = compare(given)
    results = []
    for name, mine in given.items():
        trained = "lora" in name
        plain = result(name, 0.0, None, lost=(lost or {}).get(name, 0.0) if trained else None)
        found = summarise(mine) | {"tokens_in": (tokens or {}).get(name, 100.0)}
        for key, value in found.items():
            object.__setattr__(plain, key, value)
        object.__setattr__(plain, "difference", differences.get(name))
        results.append(plain)
    results += [absent(name, "failed", "diverged") for name in failed]
    return recommend(results, given, score=score, max_forgetting=limit)


NO, HALF, YES = [0] * 40, [0, 1] * 20, [1] * 40


def test_a_clear_winner():
    advice = study({"zero_shot": NO, "rag": HALF, "lora": YES})
    assert advice.strategy == "lora"
    assert advice.sentence.startswith("Use lora: exact match 1.00 against 0.00 for the untouched")
    assert advice.sentence.endswith("; it forgets nothing: 0.000 nats per token on general text.")
    assert [r.split(" by ")[0] for r in advice.reasons] == [
        "lora beats zero_shot",
        "lora beats rag",
    ]


def test_a_tie_goes_to_the_cheaper():
    advice = study(
        {"zero_shot": NO, "rag": YES, "lora": [1] * 39 + [0]}, tokens={"rag": 500.0, "lora": 80.0}
    )
    assert advice.strategy == "lora"
    assert any(r.startswith("rag and lora cannot be told apart") for r in advice.reasons)
    assert advice.reasons[-1].startswith("lora is the cheaper: 80 tokens per answer against 500")
    assert advice.sentence.startswith("Use lora: ")


def test_equal_marks_are_no_tie_where_one_is_surer_of_the_answers():
    """Style earns words; the loss on the references shows who knows the facts."""
    advice = study(
        {"zero_shot": NO, "lora+rag": YES, "lora": [1] * 39 + [0]},
        tokens={"lora+rag": 300.0, "lora": 50.0},
        losses={"zero_shot": 20.0, "lora+rag": 5.0, "lora": 12.0},
    )
    assert advice.strategy == "lora+rag"
    assert any(
        r.startswith(
            "But lora+rag is surer of the right answers: its loss on them is lower by 0.70"
        )
        for r in advice.reasons
    )


def test_among_equally_many_tokens_untrained_wins():
    assert study({"zero_shot": NO, "lora": YES, "rag": YES}).strategy == "rag"


def test_nothing_significant_keeps_the_base():
    advice = study({"zero_shot": HALF, "rag": [1, 1] + HALF[2:], "lora": HALF})
    assert advice.strategy == "zero_shot"
    assert advice.sentence.startswith("Keep the untouched base with a plain prompt")
    assert advice.reasons == [
        "No strategy is significantly better than the plain prompt after Holm's correction."
    ]


@pytest.mark.parametrize("other", [HALF, NO], ids=["equal", "worse"])
def test_the_base_at_the_top_is_kept_and_beats_nobody(other):
    advice = study({"zero_shot": HALF, "rag": other})
    assert advice.strategy == "zero_shot" and advice.sentence.startswith("Keep the untouched base")
    assert not any("beats" in r for r in advice.reasons)


def test_the_best_is_refused_for_forgetting():
    marks = {"zero_shot": NO, "rag": HALF, "lora": YES, "lora+rag": YES}
    advice = study(marks, lost={"lora": 0.2, "lora+rag": 0.2})
    assert advice.strategy == "rag"
    assert advice.reasons[0] == (
        "lora is refused: it forgets 0.200 nats per token of general text, and the limit is 0.05."
    )
    assert study(marks, lost={"lora": 0.05, "lora+rag": 0.2}).strategy == "lora"


def limited(name, before, after, limit, *, up=True):
    """A task of lm-eval that was kept as `after`, and may lose at most `limit`."""
    moved = [b - a for a, b in zip(before, after, strict=True)]
    mean = sum(moved) / len(moved)
    return TaskKept(
        name=name, metric="m", higher_is_better=up, items=len(moved), mean=0.5,
        change=Interval(mean, mean - 0.1, mean + 0.1), max_drop=limit,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "limit", "up", "refused"),
    [
        (5, 0.02, True, True),
        (2, 0.02, True, False),  # exactly at the limit
        (3, 0.02, True, True),
        (-5, 0.0, True, False),  # gained
        (-5, 0.02, False, True),  # lower is better: more is a loss
        (5, 0.02, False, False),
        (90, None, True, False),
    ],
)
def test_the_best_is_refused_for_what_it_lost_on_a_task(wrong, limit, up, refused):
    given = {"zero_shot": items(NO), "rag": items(HALF), "lora": items(YES)}
    differences = compare(given)
    before = [1.0] * 100
    after = [1.0 - (wrong > 0)] * abs(wrong) + [1.0] * (100 - abs(wrong))
    if wrong < 0:
        before, after = [0.0] * 100, [1.0] * -wrong + [0.0] * (100 + wrong)
    results = []
    for name in given:
        one = result(name, 0.0, None, lost=0.0 if name == "lora" else None)
        one = replace(one, **summarise(given[name]), difference=differences.get(name))
        if name == "lora":
            task = limited("arc_easy", before, after, limit, up=up)
            free = limited("wikitext", [1.0] * 100, [0.0] * 100, None)
            one = replace(one, retention=replace(one.retention, tasks=[free, task]))
        results.append(one)
    for order in permutations(results):
        advice = recommend(order, given, score="exact_match", max_forgetting=0.05)
        assert advice.strategy == ("rag" if refused else "lora")
        said = [r for r in advice.reasons if "is refused" in r]
        lost = f"{abs(wrong) / 100:g}"
        assert said == (
            [f"lora is refused: it loses {lost} on arc_easy, and the limit is 0.02."]
            if refused
            else []
        )


def test_all_but_the_reference_failed():
    advice = study({"zero_shot": HALF}, failed=["lora", "lora+rag"])
    assert advice.strategy == "zero_shot"
    assert advice.reasons == ["No other strategy could be measured."]


def test_a_high_but_uncertain_mean_does_not_hide_a_proven_gain():
    # lucky has the higher mean, all of it from one group; steady gains everywhere.
    groups = ["big"] * 20 + [f"g{n}" for n in range(20)]
    marks = {
        "zero_shot": [0.0] * 40,
        "lucky": [1.0] * 20 + [0.0] * 20,
        "steady": [0.45] * 40,
    }
    given = {name: items(m, groups) for name, m in marks.items()}
    differences = compare(given)
    results = []
    for name in given:
        one = result(name, 0.0, None)
        for key, value in summarise(given[name]).items():
            object.__setattr__(one, key, value)
        object.__setattr__(one, "difference", differences.get(name))
        results.append(one)
    advice = recommend(results, given, score="token_f1", max_forgetting=0.05)
    assert differences["lucky"].p_holm >= 0.05 > differences["steady"].p_holm
    assert advice.strategy == "steady"
    assert "lucky is not significantly better than the plain prompt." in advice.reasons


def test_p_values_by_hand():
    # Four groups, all in favour: 2 of 2^4 sign patterns are as extreme. One of three: Holm.
    plain, gain = [0] * 4, [1] * 4
    found = compare(
        {"zero_shot": items(plain), "a": items(gain), "b": items(plain), "c": items([1, 0, 0, 0])}
    )
    assert found["a"].p == 2 / 16 and found["a"].p_holm == pytest.approx(3 * 2 / 16)
    assert found["b"].p == 1.0 and found["c"].p == 1.0
    assert found["b"].p_holm == found["c"].p_holm == 1.0
    # McNemar on 4 discordant pairs, all one way: 2 / 2^4.
    assert found["a"].mcnemar == 2 / 16 and found["b"].mcnemar == 1.0
    assert (found["a"].mean, found["a"].low, found["a"].high) == (1.0, 1.0, 1.0)


def test_groups_are_flipped_whole():
    found = compare(
        {"zero_shot": items([0] * 6, list("aabbcc")), "x": items([1] * 6, list("aabbcc"))}
    )
    assert found["x"].p == 2 / 2**3


def test_marks_between_0_and_1_have_no_mcnemar():
    found = compare({"zero_shot": items([0.5, 0]), "x": items([1, 0.25])})
    assert found["x"].mcnemar is None


def test_without_the_reference_nothing_is_compared():
    assert compare({"lora": items(YES)}) == {}


def test_different_items_are_refused():
    with pytest.raises(AssertionError, match="different items"):
        compare({"zero_shot": items(YES), "x": items(YES[1:])})


def test_bits_per_byte_are_shown_positive_and_lower_wins():
    base = [-1.5 - n / 100 for n in range(30)]
    advice = study(
        {"zero_shot": base, "lora": [x + 0.4 for x in base]}, score="negative_bits_per_byte"
    )
    assert advice.strategy == "lora"
    assert advice.sentence.startswith(
        "Use lora: 1.25 bits per byte against 1.65 bits per byte for the untouched base "
        "(-0.400 [-0.400, -0.400], 95 % interval)"
    )


def test_a_difference_that_the_test_set_could_show():
    given = {"zero_shot": items(NO), "lora": items(HALF)}
    spread = 2.8016 * math.sqrt(0.25 / 39)
    assert measured_detectable(given, "lora") == pytest.approx(spread, rel=1e-3)
    assert measured_detectable(given, "zero_shot") == measured_detectable(given, "lora")
    assert measured_detectable({"zero_shot": items(NO)}, "zero_shot") is None


def test_the_loss_is_summed_before_it_is_divided():
    one = Item(id="1", group="1", question="", reference="", reply="", mark=Mark(1, True),
               loss=2.0, loss_tokens=1)  # fmt: skip
    two = Item(id="2", group="2", question="", reference="", reply="", mark=Mark(0, False),
               loss=3.0, loss_tokens=9)  # fmt: skip
    found = summarise([one, two])
    assert found["metrics"]["answer_loss"] == 0.5 and found["parsed"] == 0.5


def test_a_share_of_right_answers_stays_a_share_however_folds_widen_it():
    told = [
        replace(x, fold=f"{n % 5}/5", mark=Mark(float(n % 5 != 1 or n > 30), True))
        for n, x in enumerate(items([1] * 60))
    ]
    marks = np.array([x.mark.correct for x in told])
    wide = crossfitted(marks, [x.group for x in told], [n % 5 for n in range(60)], 5)
    assert wide.high > 1
    assert score_of(told) == replace(wide, high=1.0)
    assert lead(told, items([0] * 60)) == replace(wide, high=1.0)
    assert compare({"zero_shot": items([0] * 60), "lora": told})["lora"].high == 1.0
