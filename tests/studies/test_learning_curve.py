"""The learning curve, on losses whose law is known."""

import numpy as np
import pytest

from domainwright.studies.api import decide
from domainwright.studies.learning_curve import learning_curve, subset
from tests.studies import world
from tests.tiny import chat

ROWS = [chat(f"q{i}", "a", name=f"r{i}", group=f"g{i // 2}") for i in range(400)]


def law(power, floor=1.0, scale=8.0, noise=0.02, rows=200):
    """Losses of L(n) = floor + scale · n^-power, with development rows that differ."""
    own = np.random.default_rng(5).standard_normal(rows)

    def losses_of(chosen, steps, part):
        rng = np.random.default_rng(part)
        mean = floor + scale * len(chosen) ** -power
        values = mean + own + noise * rng.standard_normal(rows)
        return [(f"d{i}", 4 * float(x), 4) for i, x in enumerate(values)]

    return losses_of


@pytest.mark.parametrize("power", [0.3, 0.5, 0.8])
def test_what_more_rows_would_bring_is_what_the_law_says(power):
    found = learning_curve(ROWS, 100, law(power), {}, seed=0)
    assert [p.rows for p in found.points][-1] == 400 and found.more == 200
    want = 8.0 * (400**-power - 600**-power)
    assert found.gain.low < want < found.gain.high
    assert found.gain.mean == pytest.approx(want, rel=0.35)
    assert "would bring about" in found.advice


def test_a_flat_curve_promises_nothing():
    found = learning_curve(ROWS, 100, law(0.5, scale=0.0), {}, seed=0)
    assert found.gain.low <= 0 and "nothing that these development rows can show" in found.advice


def test_the_sets_are_nested_and_take_equally_many_passes():
    seen = {}

    def losses_of(chosen, steps, part):
        seen[part] = ([r.id for r in chosen], steps)
        return law(0.5)(chosen, steps, part)

    learning_curve(ROWS, 100, losses_of, {}, seed=3)
    assert set(seen[4][0]) < set(seen[2][0]) < set(seen[1][0]) == {r.id for r in ROWS}
    for ids, steps in seen.values():
        assert steps == round(100 * len(ids) / 400)
    half = subset(ROWS, 2, 3)
    groups = {r.group for r in half}
    assert all((r.group in groups) == (r in half) for r in ROWS)
    assert 140 < len(half) < 260


def test_rows_of_one_group_widen_the_interval():
    by_ten = {f"d{i}": str(i // 10) for i in range(200)}
    alone = learning_curve(ROWS, 100, law(0.5, noise=0.3), {}, seed=0).gain
    grouped = learning_curve(ROWS, 100, law(0.5, noise=0.3), by_ten, seed=0).gain
    assert alone.mean == pytest.approx(grouped.mean)
    assert alone != grouped


def test_too_few_rows_have_no_curve():
    assert learning_curve(ROWS[:40], 100, law(0.5), {}, seed=0) is None


def test_a_study_measures_it_when_asked(tmp_path, base):
    rows = world.questions([*world.PLANTS, *(f"{p}wood" for p in world.PLANTS)])
    study = world.study_file(tmp_path, base, rows, evaluate={"learning_curve": True})
    decided = decide(study, tmp_path / "run")
    curve = decided.verdict.learning_curve
    assert curve.method == "lora" and len(curve.points) == 3
    assert curve.advice in decided.verdict.recommendation.reasons
    assert decide(study, tmp_path / "run2").verdict.learning_curve == curve
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Would more rows help?" in page
