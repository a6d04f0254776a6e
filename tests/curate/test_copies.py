"""Copies: planted ones are found, lessons that look alike are not; the sketch keeps its promise."""

from dataclasses import replace

import numpy as np
import pytest

from domainwright.core.records import Chat, Choice, Message, Preference, Row, Text
from domainwright.core.seeds import generator
from domainwright.curate import _shingles, _sketch
from domainwright.curate._sketch import BAND, BINS, agreement, candidates, sketched
from domainwright.curate.content import content
from domainwright.curate.copies import copies, key_table, similarity
from domainwright.maths.words import words

AT = {"id": "1", "group": "1", "file": "f", "line": 1}
LONG = (
    "The tenant shall pay the rent on the first day of every month without any deduction and"
    " shall keep the premises in good repair until the lease has ended in writing."
)


def chat(question: str, answer: str) -> Chat:
    return Chat(**AT, messages=(Message("user", question), Message("assistant", answer)))


def found(*rows: Row) -> dict[int, tuple[int, str]]:
    sketch = sketched([content(row) for row in rows])
    given = copies(key_table(rows), sketch, lambda n: rows[n])
    return {n: (copy.of, copy.reason) for n, copy in given.items()}


def test_the_first_stays_and_copies_of_copies_name_it():
    row = chat("What is owed?", LONG)
    assert found(row, chat("Other?", "No."), row, row) == {
        2: (0, "exact_duplicate"),
        3: (0, "exact_duplicate"),
    }


def test_near_copies():
    changed = LONG.replace("without any deduction", "with no deduction").replace(",", "")
    rows = (chat("What is owed?", LONG), chat("Question: What is owed?", changed + " "))
    assert found(*rows) == {1: (0, "near_duplicate")}
    assert found(*reversed(rows)) == {1: (0, "near_duplicate")}


def test_a_number_is_one_with_and_without_its_thousands():
    row = chat("How many live there?", f"{LONG} It was let for 130,000 a year, in 2,000 parts.")
    other = chat("How many live there?", row.answer.replace(",000", "000"))
    assert found(row, other) == {1: (0, "near_duplicate")}
    assert found(row, chat("How many live there?", row.answer.replace("130,", "131,"))) == {}


def test_spacing_alone_is_a_near_copy():
    assert found(chat("A b?", "c d"), chat("A b? ", "c d")) == {1: (0, "near_duplicate")}


@pytest.mark.parametrize(
    "other",
    [
        chat("What is owed in Spain?", LONG),
        chat("What is the dose?", LONG),
        chat("What is owed?", "Nothing at all, unless a court says so."),
    ],
    ids=["another question", "the same answer to another question", "another answer"],
)
def test_what_is_no_copy(other):
    assert found(chat("What is owed?", LONG), other) == {}


def test_other_numbers_are_another_text():
    dose = LONG.replace("first", "5 mg").replace("rent", "dose")
    assert similarity(dose, dose.replace("5 mg", "50 mg")) is None
    assert similarity(dose, f"{dose} See page 3.") is not None


def test_words_in_another_order_are_another_text():
    seats = "Ann sits left of Bob and Bob sits left of Cid and Cid sits left of Dan today at noon"
    assert (
        similarity(seats, seats.replace("Bob", "x").replace("Cid", "Bob").replace("x", "Cid"))
        is None
    )


def test_conflicts_are_word_for_word_and_contrast_pairs_stay():
    asked = Choice(
        **AT, question="Is the clause valid?", context=LONG, choices=("yes", "no"), answer=0
    )
    contrast = replace(asked, context=LONG.replace("in writing", "orally"), answer=1)
    assert found(asked, replace(asked, answer=1)) == {1: (0, "conflicting_duplicate")}
    assert found(asked, contrast) == {}
    assert found(asked, replace(contrast, answer=0)) == {1: (0, "near_duplicate")}
    prompt = (Message("user", "May I?"),)
    pair = Preference(**AT, prompt=prompt, chosen="No, that is not safe.", rejected="Yes, why not?")
    swapped = replace(pair, chosen=pair.rejected, rejected=pair.chosen)
    assert found(pair, swapped) == {1: (0, "conflicting_duplicate")}


def test_labels_may_not_differ_and_long_answers_may():
    assert found(chat("Positive?", "yes"), chat("Positive?", "no")) == {
        1: (0, "conflicting_duplicate")
    }
    assert (
        found(chat("Write a line.", "The sea is wide and blue."), chat("Write a line.", LONG)) == {}
    )


def test_nothing_and_one_row():
    assert found() == {}
    assert found(Text(**AT, text="?"), Text(**AT, text="!")) == {}


def test_hashes_follow_the_words_one_by_one():
    texts = ["Give 5 mg of “Naïve-Mab”®.", "", "?!", "日本 語", LONG, "x" * 200 + " y"]
    word_W, count_T = _shingles.word_hashes(texts)
    assert count_T.tolist() == [len(words(text)) for text in texts]
    place = {}
    for word, value in zip(
        [w for text in texts for w in words(text)], word_W.tolist(), strict=True
    ):
        assert place.setdefault(word, value) == value
    assert len(set(place.values())) == len(place)
    hash_S, bounds = _shingles.shingled(texts, 3)
    assert np.diff(bounds).tolist() == [max(1, n - 2) if n else 0 for n in count_T.tolist()]
    alone = np.concatenate([_shingles.shingled([text], 3)[0] for text in texts])
    assert (hash_S == alone).all()
    assert (
        _shingles.runs(_shingles.word_hashes([LONG])[0], 3) == _shingles.shingled([LONG], 3)[0]
    ).all()


@pytest.mark.parametrize("share", [0.4, 0.55, 0.7, 0.85])
def test_agreement_estimates_jaccard_within_three_sigma(share):
    rng, size, pairs = generator(0, "copies", int(share * 100)), 120, 150
    texts = []
    for n in range(pairs):
        shared = round(2 * size * share / (1 + share))
        vocabulary = [f"w{n}n{i}" for i in rng.permutation(2 * size)]
        # Words of one run each, parted by marks of their own, so that runs are words.
        texts.append(" ".join(vocabulary[:size]))
        texts.append(" ".join(vocabulary[:shared] + vocabulary[size : 2 * size - shared]))
    sketch = sketched(texts)
    pair_Q2 = np.arange(2 * pairs).reshape(-1, 2)
    runs = [{tuple(t.split()[i : i + 3]) for i in range(size - 2)} for t in texts]
    true_Q = [len(runs[i] & runs[j]) / len(runs[i] | runs[j]) for i, j in pair_Q2]
    error_Q = agreement(sketch.signature_TK, pair_Q2) - np.array(true_Q)
    sigma = np.sqrt(np.mean(true_Q) * (1 - np.mean(true_Q)) / BINS)
    # A densified bin is a repeated draw, so a single error may be wider; the mean may not.
    assert abs(error_Q.mean()) < 3 * sigma / np.sqrt(pairs) * 2
    assert error_Q.std() < 2 * sigma
    near = {tuple(pair) for pair in candidates(sketch).tolist()}
    recall = np.mean([tuple(pair) in near for pair in pair_Q2.tolist()])
    promised = 1 - (1 - np.mean(true_Q) ** BAND) ** (BINS // BAND)
    assert recall >= promised - 0.1


def test_rows_in_parts_give_the_same_copies(monkeypatch):
    rows = [
        chat(f"What is owed by {n % 9}?", LONG + f" Signed {'abcde'[n % 5]}.") for n in range(60)
    ]
    asked = Choice(**AT, question="Who pays?", context="", choices=("a", "b"), answer=0)
    rows += [replace(asked, answer=n % 2) for n in range(4)]
    whole = found(*rows)
    monkeypatch.setattr(_sketch, "_PART_ROWS", 7)
    assert found(*rows) == whole
    assert {reason for _, reason in whole.values()} == {
        "exact_duplicate",
        "near_duplicate",
        "conflicting_duplicate",
    }


def test_a_great_bucket_gives_few_pairs_and_misses_no_copy():
    rows = [chat("What is owed?", f"{LONG} Signed by party{n}.") for n in range(300)]
    assert len(candidates(sketched([content(row) for row in rows]))) < 300 * 300 / 4
    assert len(found(*rows)) == 299
