"""Planted leaks of every kind are found; shared instructions and strangers are not."""

import random

import pytest

from domainwright.core.records import Chat, Choice, Document, Message
from domainwright.curate.overlap import overlap, remove_leaks

RNG = random.Random(11)


def prose(size=60):
    return " ".join(f"w{RNG.randrange(9000)}" for _ in range(size))


def chat(name, question, answer, group=None):
    messages = (Message("user", question), Message("assistant", answer))
    return Chat(id=name, group=group or name, file="f", line=1, messages=messages)


TRAIN = [chat(f"train{n}", f"Question {n} of {prose(8)}?", prose()) for n in range(60)]
TEST = [chat(f"test{n}", f"Test {n} of {prose(8)}?", prose()) for n in range(15)]
# Built before the tests, so the random texts do not depend on which tests run.
PASSAGE = prose(200).split()
BETWEEN = [prose(100) for _ in range(3)]


def kinds(report):
    return {(leak.kind, leak.test, leak.train) for leak in report.leaks}


def test_strangers_do_not_leak():
    report = overlap(TRAIN, TEST)
    assert report.leaks == report.in_documents == ()
    assert report.counts == {"in_documents": 0}


def test_the_same_question_and_answer():
    copy = chat("copy", TEST[3].question.upper(), TEST[3].answer + "!")
    assert ("same_content", "test3", "copy") in kinds(overlap([*TRAIN, copy], TEST))
    short = chat("short", "Why?", "So.")
    report = overlap([*TRAIN, chat("copy", "why", "so")], [*TEST, short])
    assert kinds(report) == {("same_content", "short", "copy")}


def test_the_same_question_with_another_answer_is_no_leak():
    other = chat("other", TEST[3].question, prose())
    assert not overlap([*TRAIN, other], TEST).leaks


def test_a_near_duplicate():
    own = TEST[5].answer.split()
    own[20] = "changed"
    report = overlap([*TRAIN, chat("near", TEST[5].question, " ".join(own))], TEST)
    assert ("near_duplicate", "test5", "near") in kinds(report)
    assert report.counts["near_duplicate"] == 1


def test_the_same_group():
    left = [chat(f"t{n}", f"a{n}?", prose(), "page 7") for n in range(3)]
    right = [chat(f"e{n}", f"b{n}?", prose(), "page 7") for n in range(4)]
    report = overlap([*TRAIN, *left], [*TEST, *right])
    assert report.train_ids == {"t0", "t1", "t2"}
    assert report.test_ids == {"e0", "e1", "e2", "e3"}
    assert report.counts == {"same_group": 4, "in_documents": 0}
    assert all("'page 7'" in leak.detail for leak in report.leaks)


def naive_share(test, train):
    def grams(row):
        found = f"{row.question} {row.answer}".replace("?", " ").lower().split()
        return {tuple(found[n : n + 13]) for n in range(len(found) - 12)}

    own = grams(test)
    return len(own & grams(train)) / len(own)


@pytest.mark.parametrize("size", [20, 40, 55, 58, 60, 62, 70, 90])
def test_a_passage_inside_a_longer_text(size):
    """The test row is 100 words of which `size` stand in the middle of a training row."""
    test = chat("exam", "Sum up?", " ".join([*PASSAGE[:size], *BETWEEN[0].split()[: 100 - size]]))
    train = chat("book", "Read.", " ".join([BETWEEN[1], *PASSAGE[:size], BETWEEN[2]]))
    leaks = kinds(overlap([*TRAIN, train], [*TEST, test]))
    assert (("shared_passage", "exam", "book") in leaks) == (naive_share(test, train) >= 0.5)
    assert len(leaks) <= 1


def test_a_test_row_of_thirteen_words_has_one_run():
    test = chat("exam", "Say?", " ".join(PASSAGE[:12]))
    train = chat("book", "Say?", " ".join(PASSAGE[:150]))
    assert ("shared_passage", "exam", "book") in kinds(overlap([*TRAIN, train], [test]))
    shorter = chat("exam", "Say?", " ".join(PASSAGE[:11]))
    assert not overlap([*TRAIN, train], [shorter]).leaks


def test_instructions_that_everybody_shares_do_not_count():
    prefix = " ".join(PASSAGE[:60])
    train = [chat(f"t{n}", f"{prefix} {prose(10)}?", prose(10)) for n in range(40)]
    test = [chat(f"e{n}", f"{prefix} {prose(10)}?", prose(10)) for n in range(10)]
    assert not overlap(train, test).leaks
    assert overlap(train[:10], test).counts["shared_passage"] == 10, "ten rows are not everybody"
    assert not overlap(train[:11], test).leaks
    many = [*train[:12], *(chat(f"s{n}", "x?", prose(20)) for n in range(1300))]
    assert overlap(many, test).counts["shared_passage"] == 10, "12 of 1312 rows are below 1 %"


def test_choices_are_compared_with_their_context():
    def choice(name, context, answer):
        return Choice(
            id=name, group=name, file="f", line=1, question="Which section is this from?",
            choices=("methods", "results"), answer=answer, context=context,
        )  # fmt: skip

    train = [choice(f"t{n}", prose(), n % 2) for n in range(20)]
    test = [choice("e0", prose(), 0), choice("e1", train[4].context, 0)]
    assert overlap(train, test).test_ids == {"e1"}


def test_documents_are_information_not_a_fault():
    page = Document(id="page", group="page", file="d", line=1, title="T", text=TEST[2].answer)
    report = overlap(TRAIN, TEST, [page])
    assert report.leaks == ()
    assert [(leak.test, leak.train) for leak in report.in_documents] == [("test2", "page")]
    assert report.counts == {"in_documents": 1}


def test_removing_leaks():
    copies = [chat("copy", TEST[0].question, TEST[0].answer), chat("kin", "x?", prose(), "test4")]
    train = [*TRAIN, *copies]
    report = overlap(train, TEST)
    kept, aside = remove_leaks(train, report)
    assert kept == TRAIN
    assert [(entry.id, entry.reason) for entry in aside] == [
        ("copy", "leaks_into_test"),
        ("kin", "leaks_into_test"),
    ]
    assert "'test0'" in aside[0].detail
    assert not overlap(kept, TEST).leaks


@pytest.mark.parametrize("train", [[], TRAIN])
@pytest.mark.parametrize("test", [[], TEST])
def test_empty_sides(train, test):
    assert overlap(train, test).leaks == ()


def test_exactly_half_is_a_leak():
    """24 words after the question word make 13 runs; 12 words less or more tip the scale."""
    test = chat("exam", "Say?", " ".join(PASSAGE[:23]))  # 24 words, 12 runs
    for shared, leaks in ((17, True), (16, False)):  # 18 words hold 6 runs, 17 hold 5
        train = chat("book", "Say?", " ".join([*PASSAGE[:shared], *BETWEEN[0].split()]))
        assert naive_share(test, train) == pytest.approx((shared - 11) / 12)
        assert bool(overlap([train], [test]).leaks) == leaks


def test_a_near_duplicate_of_a_text_that_stands_on_both_sides():
    own = TEST[5].answer.split()
    own[20] = "changed"
    copy = chat("copy", TEST[5].question, TEST[5].answer)
    near = chat("near", TEST[5].question, " ".join(own))
    for train in ([copy, near], [near, copy]):
        found = kinds(overlap(train, TEST))
        assert {("same_content", "test5", "copy"), ("near_duplicate", "test5", "near")} <= found


def test_a_row_that_leaks_in_several_ways_says_the_first_and_counts_the_others():
    copy = chat("copy", TEST[0].question, TEST[0].answer, "test0")
    _, aside = remove_leaks([copy], overlap([copy], TEST))
    assert aside[0].detail == "same_group with test row 'test0' (group 'test0') and 2 more"
