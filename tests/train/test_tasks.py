"""Several tasks in one run: weights, uncertainties, and gradients that pull apart."""

import math
from dataclasses import replace

import pytest
import torch

from domainwright.core.errors import ConfigError, DataError
from domainwright.train.loop import Interrupted, train
from domainwright.train.passes import Packing
from domainwright.train.run import Run
from domainwright.train.tasks import (
    Balance,
    TaskSettings,
    balance_of,
    with_tasks,
    without_conflicts,
)
from tests.tiny import tiny_base, train_rows
from tests.train.runs import make_job
from tests.train.test_shaped import gradient_of

LENGTHS = (7, 16, 6, 9)


def balanced(folder, weighting="documents", conflicts="sum", **changes):
    """A run whose rows are of two tasks in turn: short ones and long ones."""
    settings = TaskSettings(weighting=weighting, conflicts=conflicts)
    job = make_job(folder, **changes)
    rows = [replace(row, task="ab"[n % 2]) for n, row in enumerate(job.rows)]
    balance = balance_of(settings, rows, job.seed)
    return replace(job, rows=rows, balance=balance)


def two_tasks():
    return [replace(r, task="ab"[n % 2]) for n, r in enumerate(train_rows(LENGTHS))]


def gradient(job, rows):
    loss, told, found, _ = gradient_of(job, rows=rows)
    return loss, told, torch.cat([x.flatten() for x in found])


def test_every_document_counts_alike_or_every_token():
    """The gradients of both tasks alone, put together as the formulas say."""
    base, rows = tiny_base(), two_tasks()
    plain = make_job("/nowhere", base=base, clip=1e9)
    parts = {t: [r for r in rows if r.task == t] for t in "ab"}
    alone = {t: gradient(plain, own)[2] for t, own in parts.items()}
    tokens = {t: sum(r.targets for r in own) for t, own in parts.items()}
    loss, told, by_documents = gradient(balanced("/nowhere", base=base, clip=1e9), rows)
    torch.testing.assert_close(by_documents, alone["a"] / 2 + alone["b"] / 2, rtol=1e-4, atol=1e-7)
    whole, _, by_tokens = gradient(plain, rows)
    assert loss == pytest.approx(whole, rel=1e-5)
    each = sum(tokens[t] * told["task_losses"][t] for t in "ab") / sum(tokens.values())
    assert each == pytest.approx(whole, rel=1e-5)
    assert not torch.allclose(by_documents, by_tokens, rtol=1e-2)
    # Without any conflict PCGrad is the plain sum.
    agreeing = [replace(r, task="ab"[n]) for n, r in enumerate([rows[0], rows[0]])]
    job = balanced("/nowhere", "tokens", "pcgrad", base=base, clip=1e9)
    _, told, projected = gradient(job, agreeing)
    assert told["conflicts"] == 0
    torch.testing.assert_close(projected, gradient(plain, agreeing)[2], rtol=1e-4, atol=1e-7)


def test_an_uncertainty_rests_where_its_task_weighs_one_over_twice_its_loss():
    balance = Balance(TaskSettings(weighting="uncertainty", rate=0.2), 0, {"a": 0.0, "b": 0.0})
    for _ in range(400):
        balance.learn({"a": 0.25, "b": 3.0})
    for task, loss in (("a", 0.25), ("b", 3.0)):
        assert math.exp(-balance.uncertainty[task]) == pytest.approx(1 / (2 * loss), rel=1e-3)
    rows = two_tasks()
    part = Packing(tiny_base(), rows[:1])
    whole = Packing(tiny_base(), rows)
    assert balance.weight("b", part, whole) == pytest.approx(0.25 / 6, rel=1e-3)


def test_what_points_against_another_task_is_taken_away():
    """Two tasks: afterwards neither hurts the other's original. Three: against the paper's loop."""
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    found = [[first], [second]]
    assert without_conflicts(found, range) == 1
    assert float(found[0][0] @ second) == pytest.approx(0, abs=1e-6)
    assert float(found[1][0] @ first) == pytest.approx(0, abs=1e-6)
    torch.manual_seed(3)
    raw = torch.randn(3, 5)
    orders = [[2, 0, 1], [1, 0, 2], [0, 2, 1]]
    want = raw.clone()
    for i, order in enumerate(orders):
        for j in order:
            if i != j and want[i] @ raw[j] < 0:
                want[i] = want[i] - (want[i] @ raw[j]) / raw[j].square().sum() * raw[j]
    # The parameters of a task in two pieces, one of which a task never touches.
    found = [[g[:3], g[3:]] for g in raw]
    drawn = iter(orders)
    met = without_conflicts(found, lambda _: next(drawn))
    assert 0 < met <= 1
    for own, wanted in zip(found, want, strict=True):
        torch.testing.assert_close(torch.cat(own), wanted)
    untouched = [[torch.tensor([1.0]), None], [torch.tensor([-1.0]), torch.tensor([2.0])]]
    without_conflicts(untouched, range)
    assert untouched[0][1] is not None and float(untouched[0][1]) == pytest.approx(0.4)
    assert without_conflicts([[torch.zeros(2)], [torch.ones(2)]], range) == 0


def test_projected_tasks_on_a_real_base_do_not_hurt_each_other():
    """One question with two answers that pull apart: what is left helps, or spares, both."""
    base = tiny_base()
    plain = make_job("/nowhere", base=base, clip=1e9)
    (row,) = train_rows((12,))
    asked = replace(row, supervised=[False] * 11 + [True], task="a")
    alone = [gradient(plain, [asked])[2]]
    for label in range(3, 60):
        other = replace(asked, ids=[*asked.ids[:-1], label], id="other", task="b")
        alone[1:] = [gradient(plain, [other])[2]]
        if alone[0] @ alone[1] < -0.01 * alone[0].norm() * alone[1].norm():
            break
    job = balanced("/nowhere", "documents", "pcgrad", base=base, clip=1e9)
    _, told, both = gradient(job, [asked, other])
    assert told["conflicts"] == 1
    for one in alone:
        assert float(both @ one) >= -1e-6 * float(both.norm() * one.norm())


@pytest.mark.parametrize("weighting", ["documents", "uncertainty"])
def test_stopping_and_going_on_changes_no_bit(tmp_path, weighting):
    how = {"weighting": weighting, "conflicts": "pcgrad", "steps": 6}
    want = train(balanced(tmp_path / "a", **how)).history
    seen = []
    with pytest.raises(Interrupted):
        train(
            balanced(tmp_path / "b", **how),
            listen=seen.append,
            stop=lambda: len(seen) == 3,
        )
    got = train(balanced(tmp_path / "b", **how), resume=True).history
    for a, b in zip(got, want, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }
    assert all("conflicts" in x and set(x["task_losses"]) <= {"a", "b"} for x in got[1:-1])
    again = Run(balanced(tmp_path / "b", **how))
    assert again.resume()
    moved = again.job.balance.uncertainty.values()
    assert all(moved) is (weighting == "uncertainty")


def test_settings_that_ask_for_nothing_and_rows_of_one_task():
    with pytest.raises(ConfigError, match="asks for what is done anyway") as told:
        TaskSettings()
    assert "conflicts: pcgrad" in told.value.fix
    with pytest.raises(ConfigError, match="rate is 0"):
        TaskSettings(weighting="uncertainty", rate=0)
    settings = TaskSettings(weighting="documents")
    with pytest.raises(DataError, match="of one task, unnamed"):
        balance_of(settings, train_rows(LENGTHS), 0)
    assert balance_of(None, [], 0) is None
    rows = with_tasks(
        [
            replace(r, id=i)
            for r, i in zip(train_rows(LENGTHS), ("x", "y#0", "y#1", "z"), strict=True)
        ],
        {"x": "a", "y": "b"},
    )
    assert [r.task for r in rows] == ["a", "b", "b", ""]
