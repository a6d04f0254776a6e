"""Which documents a step reads: every one once an epoch, or tasks by their shares in every step."""

from collections import Counter

import pytest

from domainwright.models.forms import TrainRow
from domainwright.train.order import Order, completed


def rows(**sizes):
    return [
        TrainRow(f"{task}{n}", [1, 2], [True, True], task=task)
        for task, count in sizes.items()
        for n in range(count)
    ]


def ids(steps):
    return [row.id for step in steps for row in step]


def test_every_document_once_an_epoch():
    order = Order(rows(a=7, b=5), 5, seed=3)
    read = ids(order.step(n) for n in range(12))
    for epoch in range(5):
        assert sorted(read[12 * epoch : 12 * epoch + 12]) == sorted(ids([order.rows]))
    assert ids([order.step(1)]) == read[5:10] == ids([Order(order.rows, 5, 3).step(1)])
    assert ids([Order(order.rows, 5, 4).step(0)]) != read[:5]


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.5}, {"a": 0.1, "b": 0.9}])
def test_every_step_holds_its_shares(shares):
    order = Order(rows(a=40, b=8), 8, seed=0, shares=shares)
    steps = [order.step(n) for n in range(60)]
    for step in steps:
        found = Counter(row.task for row in step)
        assert all(abs(found[task] - 8 * share) < 2 for task, share in shares.items())
    total = Counter(row.task for step in steps for row in step)
    assert all(abs(total[task] - 480 * share) <= 10 for task, share in shares.items())
    # All of a large task is read before any of it comes again, epoch after epoch.
    large = [name for name in ids(steps) if name[0] == "a"]
    assert sorted(large[:40]) == sorted(r.id for r in order.rows if r.task == "a")
    assert ids([order.step(7)]) == ids([Order(order.rows, 8, 0, shares).step(7)])


def test_tasks_that_have_no_share_or_no_row():
    assert completed({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 1, "b": 9}) == {"a": 0.625, "b": 0.375}
    found = completed({"a": 0.75, "b": 0.25}, {"new": 6, "a": 2})
    assert found == {"new": 0.75, "a": 0.25}
    assert completed({"a": 1.0}, {"b": 3, "c": 1}) == {"b": 0.75, "c": 0.25}
    order = Order(rows(a=4, b=4, new=8), 4, seed=0, shares={"a": 0.75, "b": 0.25})
    assert Counter(r.task for n in range(4) for r in order.step(n)) == {"new": 8, "a": 6, "b": 2}
