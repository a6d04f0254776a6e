"""Has the domain moved? The tests against their definitions, and on a run."""

import json

import numpy as np
import pytest

import domainwright as dw
from domainwright.core.errors import DataError
from domainwright.studies.refine.two_sample import mean_difference, mmd
from tests.studies import world


def sample(seed, groups, each, shift=0.0):
    """Vectors in groups: rows of one group are alike. (vectors, group names)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, 6))
    centres[:, 0] += shift
    rows = np.repeat(centres, each, axis=0) + 0.3 * rng.normal(size=(groups * each, 6))
    return rows, [f"g{n}" for n in range(groups) for _ in range(each)]


def test_mmd_is_that_of_its_definition():
    (x, _), (y, _) = sample(0, 5, 1), sample(1, 7, 1, 0.5)
    z = np.concatenate([x, y])
    far = [((a - b) ** 2).sum() for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
    middle = np.median(far)

    def k(one, other):
        return np.exp(-((one - other) ** 2).sum() / middle)

    def mean(xs, ys, same):
        pairs = [(i, j) for i in range(len(xs)) for j in range(len(ys)) if not (same and i == j)]
        return np.mean([k(xs[i], ys[j]) for i, j in pairs])

    want = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert mmd(x, y).statistic == pytest.approx(want, abs=1e-12)


def test_a_difference_of_means_is_two_sided():
    low, high = np.arange(12.0), np.arange(12.0) + 30
    assert mean_difference(low, high).statistic == pytest.approx(30)
    assert mean_difference(high, low).statistic == pytest.approx(-30)
    assert mean_difference(low, high).p == mean_difference(high, low).p == 1 / 1000


def test_nothing_to_tell_apart_is_no_difference():
    same = np.ones((8, 3))
    assert mmd(same, same).p == 1 and mean_difference(same[:, 0], same[:, 0]).p == 1


def test_the_same_seed_gives_the_same_p():
    (x, _), (y, _) = sample(0, 20, 1), sample(1, 20, 1, 0.3)
    assert mmd(x, y, seed=4) == mmd(x, y, seed=4)
    assert mmd(x, y, seed=4).p != mmd(x, y, seed=5).p


def p_values(shift, *, grouped=True):
    found = []
    for seed in range(20):
        (x, gx), (y, gy) = sample(2 * seed, 12, 3), sample(2 * seed + 1, 12, 3, shift)
        names = (gx, gy) if grouped else (None, None)
        found.append(mmd(x, y, *names, seed=seed).p)
    return np.array(found)


def test_one_distribution_is_not_said_to_have_moved():
    assert (p_values(0.0) >= 0.05).sum() >= 19


def test_another_distribution_is():
    assert (p_values(2.5) < 0.05).all()


def test_rows_of_one_document_are_not_exchanged_one_by_one():
    """Without groups the same samples would be called moved: why groups are kept whole."""
    assert (p_values(0.0, grouped=False) < 0.05).sum() > 5


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("drift")
    study = world.study_file(folder, base, strategies=["zero_shot"], evaluate={"items": 2})
    return dw.decide(study, folder / "run").folder


@pytest.fixture(autouse=True)
def _quick(quick):
    pass


def write(path, questions):
    return world.write_lines(path, [{"question": q} for q in questions])


def test_questions_like_those_known(run, tmp_path):
    new = [row for n, row in enumerate(world.questions()) if n % 3 == n // 3 % 3]
    found = dw.drift(run, world.write_lines(tmp_path / "new.jsonl", new))
    assert not found.moved and found.sentence.startswith("No move is shown")
    assert found.new == 20 and found.known == len(world.read_lines(run / "dataset/train.jsonl"))
    assert all(shift.p_holm >= 0.05 for shift in found.shifts)


def test_questions_of_another_domain(run, tmp_path):
    asked = [f"May the tenant of flat {n} end the lease before {n + 3} May?" for n in range(15)]
    file = write(tmp_path / "new.jsonl", asked)
    with file.open("a") as lines:
        lines.write(json.dumps({"note": "nothing is asked"}) + "\n")
    found = dw.drift(run, file)
    assert found.moved and found.sentence.startswith("The domain has moved: 15 new questions")
    assert {"tenant", "lease"} & set(found.words) and set(found.examples) <= set(asked)
    assert found.set_aside == {"no_question": 1}
    loss = next(s for s in found.shifts if s.what == "loss")
    assert loss.interval.low <= loss.statistic <= loss.interval.high
    assert loss.interval.mean == pytest.approx(loss.statistic)
    assert found == dw.drift(run, file)


def test_too_few_questions(run, tmp_path):
    with pytest.raises(DataError, match="2 new questions"):
        dw.drift(run, write(tmp_path / "new.jsonl", ["a?", "b?"]))


def test_a_file_without_questions(run, tmp_path):
    with pytest.raises(DataError, match="fit no known data format"):
        dw.drift(run, world.write_lines(tmp_path / "new.jsonl", [{"a": 1}]))


def test_a_folder_of_nothing(tmp_path):
    with pytest.raises(DataError, match="no finished study"):
        dw.drift(tmp_path, tmp_path / "new.jsonl")
