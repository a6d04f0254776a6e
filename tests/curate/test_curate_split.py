"""Splits: nothing lost, nothing on two sides, and the same whatever the order of the rows."""

import random

import pytest

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.records import Chat, Choice, Message, Preference, Rated, Text
from domainwright.curate.duplicates import conflicting_answers, drop_duplicates
from domainwright.curate.split import split, split_given


def chat(n, question="", answer="", group=None, date=None):
    question = question or f"Question {n} about matter {n * 7919 % 1000}?"
    messages = (Message("user", question), Message("assistant", answer or f"Answer {n}."))
    return Chat(
        id=f"r{n}", group=group or f"g{n}", file="f", line=n + 1, date=date, messages=messages
    )


def prose(rng, size=60):
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(size))


def corpus(seed, rows=200):
    """Rows in groups of random size; some answers are light changes of another group's."""
    rng = random.Random(seed)
    found = []
    for n in range(rows):
        answer = prose(rng)
        if found and rng.random() < 0.1:
            own = rng.choice(found).answer.split()
            own[rng.randrange(len(own))] = "changed"
            answer = " ".join(own)
        found.append(chat(n, "What?", answer, group=f"g{rng.randrange(rows // 2)}"))
    return found


def shingles(row):
    found = f"{row.question} {row.answer}".lower().replace("?", "").split()
    return {tuple(found[n : n + 5]) for n in range(len(found) - 4)}


def parts(made):
    return {name: [row.id for row in getattr(made, name)] for name in ("train", "dev", "test")}


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_and_nothing_is_on_two_sides(seed):
    rows = corpus(seed)
    made = split(rows, seed=seed)
    sides = [made.train, made.dev, made.test]
    assert sorted(row.id for side in sides for row in side) == sorted(row.id for row in rows)
    for a in range(3):
        for b in range(a):
            assert not {row.group for row in sides[a]} & {row.group for row in sides[b]}
            for left in sides[a]:
                for right in sides[b]:
                    x, y = shingles(left), shingles(right)
                    assert len(x & y) < 0.8 * len(x | y)
    assert made.merged_groups
    assert 30 <= len(made.test) <= 45
    assert 12 <= len(made.dev) <= 25
    assert made.facts["rows"] == {
        "train": len(made.train),
        "dev": len(made.dev),
        "test": len(made.test),
    }
    assert made.facts["tied_groups"] == sum(map(len, made.merged_groups))


def test_the_order_of_the_rows_changes_nothing():
    rows = corpus(0)
    want = {name: set(ids) for name, ids in parts(split(rows, seed=3)).items()}
    for shuffle in range(5):
        random.Random(shuffle).shuffle(rows)
        made = split(rows, seed=3)
        assert {name: set(ids) for name, ids in parts(made).items()} == want


def test_the_seed_decides():
    rows = [chat(n) for n in range(100)]
    assert parts(split(rows, seed=1)) == parts(split(rows, seed=1))
    assert parts(split(rows, seed=1))["test"] != parts(split(rows, seed=2))["test"]


def test_rows_keep_their_order_inside_a_part():
    made = split([chat(n) for n in range(50)], seed=0)
    assert [row.line for row in made.train] == sorted(row.line for row in made.train)


def test_sizes_are_exact_when_every_row_is_its_own_group():
    made = split([chat(n) for n in range(100)], seed=0, test_share=0.3, dev_share=0.2)
    assert [len(made.train), len(made.dev), len(made.test)] == [50, 20, 30]
    made = split([chat(n) for n in range(100)], seed=0, test_items=7, dev_share=0)
    assert [len(made.train), len(made.dev), len(made.test)] == [93, 0, 7]


def test_a_giant_group_trains():
    rows = [chat(n, group="giant" if n < 80 else None) for n in range(100)]
    for seed in range(10):
        made = split(rows, seed=seed)
        assert {row.group for row in made.train} >= {"giant"}
        assert (len(made.test), len(made.dev)) == (13, 7), "20 rows beside it, shared 2 to 1"


def test_three_groups_are_enough_and_two_are_not():
    rows = [chat(n, group=f"g{n % 3}") for n in range(30)]
    assert {len(side) for side in parts(split(rows, seed=0)).values()} == {10}
    with pytest.raises(DataError, match=r"30 rows in 2 groups \(2 after .*3 parts need 3"):
        split([chat(n, group=f"g{n % 2}") for n in range(30)], seed=0)
    made = split([chat(n, group=f"g{n % 2}") for n in range(30)], seed=0, dev_share=0)
    assert len(made.train) == len(made.test) == 15


def test_near_duplicates_can_leave_too_few():
    rng = random.Random(0)
    text = prose(rng)
    rows = [chat(n, "What?", text) for n in range(5)]
    with pytest.raises(DataError, match=r"5 groups \(1 after near-duplicates"):
        split(rows, seed=0)


def test_no_rows_and_bad_shares():
    with pytest.raises(DataError, match="0 rows"):
        split([], seed=0)
    rows = [chat(n) for n in range(10)]
    for shares in ({"test_share": 0.9, "dev_share": 0.1}, {"test_share": -0.1}):
        with pytest.raises(ConfigError):
            split(rows, seed=0, **shares)
    with pytest.raises(ConfigError, match="leave none of 10"):
        split(rows, seed=0, test_items=10)


def test_by_date_the_newest_are_the_test():
    rows = [chat(n, date=f"20{n:02d}-01-01") for n in range(50)]
    rows[2] = chat(2, date="2002-01-01", group="g49")  # old row of the newest group
    random.Random(0).shuffle(rows)
    made = split(rows, seed=0, by_date=True)
    assert {row.date for row in made.test} == {f"20{n}-01-01" for n in range(41, 50)} | {
        "2002-01-01"
    }
    assert min(row.date for row in made.dev) > max(row.date for row in made.train)
    with pytest.raises(DataError, match="1 rows have no date"):
        split([*rows, chat(99)], seed=0, by_date=True)


def test_template_questions_do_not_tie_groups():
    rows = [chat(n, f"What is drug{n}?", f"Drug{n} is a drug.") for n in range(40)]
    assert split(rows, seed=0).merged_groups == ()


def test_given_parts_stay_as_they_are():
    train, test = [chat(n) for n in range(5)], [chat(n) for n in range(5, 8)]
    made = split_given(train, test)
    assert (made.train, made.dev, made.test) == (tuple(train), (), tuple(test))
    assert made.facts["rows"] == {"train": 5, "dev": 0, "test": 3}
    assert split_given(train, test, [chat(9)]).dev == (chat(9),)
    with pytest.raises(DataError, match="test part holds no row"):
        split_given(train, [])


def test_exact_duplicates_go_and_the_first_stays():
    rows = [chat(0, "A?", "b"), chat(1, "A?", "c"), chat(2, " A?\n", "b "), chat(3, "a?", "b")]
    kept, aside = drop_duplicates(rows)
    assert [row.id for row in kept] == ["r0", "r1", "r3"]
    assert [(entry.id, entry.reason) for entry in aside] == [("r2", "exact_duplicate")]
    assert "'r0'" in aside[0].detail


def row(kind, n, **values):
    return kind(id=f"r{n}", group="g", file="f", line=n, **values)


def test_what_makes_rows_of_each_kind_equal():
    prompt = (Message("user", "Why?"),)
    choice = {"question": "Which?", "choices": ("a", "b"), "answer": 0}
    pair = {"prompt": prompt, "chosen": "x", "rejected": "y"}
    rated = {"prompt": prompt, "reply": "x", "wanted": True}
    rows = [
        row(Choice, 0, **choice),
        row(Choice, 1, **choice | {"choices": ("b", "a"), "answer": 1}),  # reordered: equal
        row(Choice, 2, **choice | {"answer": 1}),
        row(Choice, 3, **choice | {"context": "Here."}),
        row(Preference, 4, **pair),
        row(Preference, 5, **pair),  # equal
        row(Preference, 6, **pair | {"chosen": "y", "rejected": "x"}),
        row(Rated, 7, **rated),
        row(Rated, 8, **rated | {"wanted": False}),
        row(Text, 9, text="x"),
        row(Text, 10, text="x"),  # equal
    ]
    kept, aside = drop_duplicates(rows)
    assert [entry.id for entry in aside] == ["r1", "r5", "r10"]
    assert len(kept) + len(aside) == len(rows)
    # Choice 0 and 2, preference 4 and 6, rating 7 and 8.
    assert conflicting_answers(kept) == 3


def test_conflicts_are_counted_by_question():
    rows = [
        chat(0, "A?", "b"),
        chat(1, "a", "c"),
        chat(2, "A?", "d"),
        chat(3, "B?", "x"),
        chat(4, "B?", "X!"),
    ]
    assert conflicting_answers(rows) == 1


def test_every_part_gets_a_group_while_there_is_one_for_each():
    """The wish for test rows must not eat the last group that dev could have."""
    for seed in range(20):
        rows = [chat(n, group=f"g{n}" if n < 2 else "rest") for n in range(12)]
        made = split(rows, seed=seed, test_items=2, dev_share=0.1)
        assert {len(made.test), len(made.dev)} == {1}
        rows = [chat(n, date=f"200{n % 3}", group=f"g{n % 3}") for n in range(9)]
        made = split(rows, seed=seed, test_share=0.7, dev_share=0.1, by_date=True)
        assert [{row.date for row in side} for side in (made.train, made.dev, made.test)] == [
            {"2000"},
            {"2001"},
            {"2002"},
        ]
