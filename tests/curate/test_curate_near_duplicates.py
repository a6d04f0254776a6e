"""Clusters against every pair compared by brute force."""

import random

import pytest

from domainwright.curate.near_duplicates import clusters, pairs


def grams(text, size=5):
    found = text.split()
    return {tuple(found[n : n + size]) for n in range(max(1, len(found) - size + 1))}


def similarity(a, b):
    a, b = grams(a), grams(b)
    return len(a & b) / len(a | b)


def corpus(seed):
    """Random texts, with exact copies, light changes and chains of changes planted."""
    rng = random.Random(seed)
    texts = [
        " ".join(f"w{rng.randrange(300)}" for _ in range(rng.randrange(1, 120))) for _ in range(40)
    ]
    for text in list(texts):
        for _ in range(rng.choice([0, 0, 1, 2])):
            own = text.split()
            for _ in range(rng.choice([0, 1, 1, 2, 4])):
                own[rng.randrange(len(own))] = f"w{rng.randrange(300)}"
            text = " ".join(own)
            texts.append(text)
    rng.shuffle(texts)
    return texts


def brute_force(texts, threshold, short):
    """Flood fill over all pairs."""

    def copies(a, b):
        if min(len(a.split()), len(b.split())) < short:
            return a == b
        return similarity(a, b) >= threshold

    found = [None] * len(texts)
    number = 0
    for start in range(len(texts)):
        if found[start] is not None:
            continue
        queue = [start]
        while queue:
            here = queue.pop()
            found[here] = number
            queue += [
                n for n in range(len(texts)) if found[n] is None and copies(texts[here], texts[n])
            ]
        number += 1
    return found


@pytest.mark.parametrize("short", [0, 12, 40])
@pytest.mark.parametrize("threshold", [0.8, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_brute_force(seed, threshold, short):
    texts = corpus(seed)
    want = brute_force(texts, threshold, short)
    assert len(set(want)) < len(texts), "the corpus must hold copies"
    assert clusters(texts, threshold, exact_below_words=short) == want


def test_case_accents_and_punctuation_do_not_count():
    assert clusters(["The café, open!", "the cafe open", "The cafe: closed"]) == [0, 0, 1]


def test_digits_count():
    text = "Give {} mg of the drug twice a day with food"
    assert clusters([text.format(5), text.format(50)]) == [0, 1]


def test_template_questions_about_different_things_stay_apart():
    rows = [f"What is the usual dose of {name}? Take one." for name in ("aspirin", "ibuprofen")]
    assert clusters(rows, exact_below_words=12) == [0, 1]


def test_nothing_is_no_copy_of_nothing():
    assert clusters([]) == []
    assert clusters(["", "...", ""]) == [0, 1, 2]


def test_a_text_just_at_the_limit_is_compared():
    twelve = "a b c d e f g h i j k l"
    longer = twelve + " m"
    assert clusters([twelve, longer], 0.8, exact_below_words=12) == [0, 0]
    assert clusters([twelve, longer], 0.8, exact_below_words=13) == [0, 1]


def test_pairs_carry_the_true_similarity():
    texts = list(dict.fromkeys(corpus(3)))
    found = list(pairs(texts, 0.5))
    assert found
    assert all(
        i < j and value == pytest.approx(similarity(texts[i], texts[j])) for i, j, value in found
    )


def test_the_threshold_itself_is_a_copy():
    """Eight of ten shingles shared: exactly 0.8."""
    a = [f"x{n}" for n in range(13)]  # 9 shingles
    b = [*a, "y"]  # 10 shingles, 9 shared
    assert similarity(" ".join(a), " ".join(b)) == pytest.approx(0.9)
    assert clusters([" ".join(a), " ".join(b)], 0.9) == [0, 0]
    assert clusters([" ".join(a), " ".join(b)], 0.91) == [0, 1]
