"""MinHash against sets of word tuples, counted in plain Python, and against its formula."""

import random
import subprocess
import sys

import numpy as np
import pytest

from domainwright.maths.minhash import candidate_pairs, jaccard, shingles, signatures, words


def naive_shingles(text, size=5):
    """Words by hand, no regular expression: shares nothing with the code."""
    clean = "".join(char if char.isalnum() else " " for char in text.lower())
    found = clean.split()
    if len(found) < size:
        return {tuple(found)} if found else set()
    return {tuple(found[n : n + size]) for n in range(len(found) - size + 1)}


def naive_jaccard(a, b):
    a, b = naive_shingles(a), naive_shingles(b)
    return len(a & b) / len(a | b) if a | b else 0.0


def sentence(rng, size, vocabulary=400):
    return " ".join(f"w{rng.randrange(vocabulary)}" for _ in range(size))


def test_words():
    assert words("Émile's dose: 5 mg, NOT 50mg!") == [
        "emile",
        "s",
        "dose",
        "5",
        "mg",
        "not",
        "50mg",
    ]
    assert words("診断 abc") == ["診", "断", "abc"]
    assert words(" \n.,;") == []


@pytest.mark.parametrize("size", [1, 2, 5, 13])
def test_shingles_are_the_sets_of_the_naive_count(size):
    rng = random.Random(size)
    texts = ["", *(sentence(rng, rng.randrange(0, 30), 4) for _ in range(60)), "..."]
    hash_S, bounds = shingles(texts, size)
    assert len(bounds) == len(texts) + 1
    names = {}
    for t, text in enumerate(texts):
        own = set(hash_S[bounds[t] : bounds[t + 1]].tolist())
        want = naive_shingles(text, size)
        assert len(own) == len(want)
        names[frozenset(want)] = names.get(frozenset(want), own)
        assert names[frozenset(want)] == own, "equal sets of shingles, equal hashes"
    for a, hashes_a in names.items():
        for b, hashes_b in names.items():
            assert len(hashes_a & hashes_b) == len(a & b)


def test_no_texts_and_empty_texts():
    assert signatures([]).shape == (0, 112)
    signature_TP = signatures(["", "one two", ""])
    assert signature_TP.shape == (3, 112)
    assert candidate_pairs(signature_TP).tolist() == [], "nothing is not a copy of nothing"
    assert candidate_pairs(signatures([])).shape == (0, 2)


def test_a_signature_depends_on_its_text_only():
    rng = random.Random(1)
    texts = [sentence(rng, rng.randrange(1, 80)) for _ in range(50)]
    together = signatures(texts)
    for t in (0, 7, 49):
        np.testing.assert_array_equal(signatures([texts[t]])[0], together[t])


def test_chunks_change_nothing(monkeypatch):
    rng = random.Random(2)
    texts = [sentence(rng, rng.randrange(0, 80)) for _ in range(50)]
    whole = signatures(texts)
    monkeypatch.setattr("domainwright.maths.minhash._CHUNK_SHINGLES", 37)
    np.testing.assert_array_equal(signatures(texts), whole)


def test_another_process_gets_the_same_signature():
    code = """if True:
        from domainwright.maths.minhash import signatures
        print(signatures(["a b c d e f"]).sum())"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == int(signatures(["a b c d e f"]).sum())


@pytest.mark.parametrize("share", [0.5, 0.7, 0.8, 0.9])
def test_estimates_and_candidates_follow_the_formula(share):
    """300 pairs whose similarity is known: the mean agreement and the hit rate within 4 sigma."""
    rng = random.Random(round(share * 100))
    base, pairs, size = [], 300, 400
    for n in range(pairs):
        left = [f"p{n}x{k}" for k in range(size)]
        right = [w if k < size * share else f"q{n}x{k}" for k, w in enumerate(left)]
        rng.shuffle(left)
        base += [" ".join(left), " ".join(right)]
    true = 2 * share * size / (2 * size) / (2 - share)
    signature_TP = signatures(base, words_each=1)
    agree = (signature_TP[0::2] == signature_TP[1::2]).mean(axis=1)
    sigma = (true * (1 - true) / 112) ** 0.5
    assert abs(agree.mean() - true) < 4 * sigma / pairs**0.5
    assert agree.std() < 1.2 * sigma
    chance = 1 - (1 - true**8) ** 14
    found = {tuple(pair) for pair in candidate_pairs(signature_TP, bands=14).tolist()}
    hits = sum((2 * n, 2 * n + 1) in found for n in range(pairs))
    assert abs(hits / pairs - chance) < 4 * (chance * (1 - chance) / pairs) ** 0.5 + 1e-9
    assert len(found) == hits, "unrelated texts are no candidates"


@pytest.mark.parametrize("bands", [7, 14, 28])
def test_candidates_are_the_pairs_with_an_equal_band(bands):
    rng = np.random.default_rng(bands)
    signature_TP = rng.integers(0, 2, size=(40, 112)).astype(np.uint64)
    signature_TP[7] = signature_TP[31]
    signature_TP[3, :60] = signature_TP[9, :60]
    size = 112 // bands
    want = [
        [i, j]
        for i in range(40)
        for j in range(i + 1, 40)
        if any(
            all(signature_TP[i, b * size + r] == signature_TP[j, b * size + r] for r in range(size))
            for b in range(bands)
        )
    ]
    assert candidate_pairs(signature_TP, bands=bands).tolist() == want
    assert [7, 31] in want


def test_jaccard_is_the_naive_one():
    rng = random.Random(3)
    for _ in range(50):
        a, b = (sentence(rng, rng.randrange(0, 20), 3) for _ in range(2))
        hash_S, bounds = shingles([a, b], 5)
        got = jaccard(hash_S[: bounds[1]], hash_S[bounds[1] :])
        assert got == pytest.approx(naive_jaccard(a, b))
