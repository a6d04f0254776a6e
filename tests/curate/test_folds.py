"""Folds: every row asked once, no group and no near-duplicate on two sides."""

import random

import pytest

from domainwright.core.errors import DataError
from domainwright.curate.split import folds, independent, undivided
from tests.curate.test_curate_split import chat, corpus, shingles


@pytest.mark.parametrize("count", [2, 5, 9])
def test_every_row_is_tested_once_and_trains_everywhere_else(count):
    rows = corpus(3)
    made = folds(rows, count, seed=1)
    assert len(made) == count
    assert sorted(row.id for one in made for row in one.test) == sorted(row.id for row in rows)
    for one in made:
        assert {row.id for row in (*one.train, *one.test)} == {row.id for row in rows}
        assert not one.dev and not {r.group for r in one.train} & {r.group for r in one.test}
        for left in one.train:
            for right in one.test:
                x, y = shingles(left), shingles(right)
                assert len(x & y) < 0.8 * len(x | y)


def test_folds_are_of_one_size_and_follow_from_the_seed_alone():
    rows = [chat(n) for n in range(42)]
    made = folds(rows, 5, seed=0)
    assert sorted(len(one.test) for one in made) == [8, 8, 8, 9, 9]
    shuffled = random.Random(0).sample(rows, len(rows))

    def names(found):
        return [sorted(row.id for row in one.test) for one in found]

    assert names(folds(shuffled, 5, seed=0)) == names(made) != names(folds(rows, 5, seed=1))


def test_a_large_group_has_a_fold_to_itself():
    rows = [chat(n, group="patient" if n < 20 else None) for n in range(32)]
    made = folds(rows, 4, seed=0)
    assert sorted(len(one.test) for one in made) == [4, 4, 4, 20]


def test_more_folds_than_groups_are_refused():
    rows = [chat(n, group=f"g{n % 3}") for n in range(9)]
    assert independent(rows) == 3
    with pytest.raises(DataError, match=r"9 rows in 3 groups \(3 after .* make no 4 folds"):
        folds(rows, 4, seed=0)
    with pytest.raises(DataError, match="make no 1 folds"):
        folds(rows, 1, seed=0)


def test_undivided_rows_all_train():
    rows, dev = [chat(n) for n in range(4)], [chat(9)]
    made = undivided(rows, dev)
    assert made.train == tuple(rows) and made.dev == tuple(dev) and made.test == ()
