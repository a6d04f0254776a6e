"""Sketches and shingles against sets of word tuples, counted in plain Python, and formulas."""

import random
import subprocess
import sys

import numpy as np
import pytest

from domainwright.curate._shingles import shingled
from domainwright.curate._sketch import (
    BAND,
    BANDS,
    BINS,
    Sketch,
    agreement,
    band_keys,
    candidates,
    signatures,
    sketched,
)
from domainwright.maths.words import words


def naive_shingles(text, size=5):
    """Words by hand, no regular expression: shares nothing with the code."""
    clean = "".join(char if char.isalnum() else " " for char in text.lower())
    found = clean.split()
    if len(found) < size:
        return {tuple(found)} if found else set()
    return {tuple(found[n : n + size]) for n in range(len(found) - size + 1)}


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
    hash_S, bounds = shingled(texts, size)
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
    assert signatures([]).shape == (0, BINS)
    sketch = sketched(["", "one two", ""])
    assert sketch.signature_TK.shape == (3, BINS)
    assert candidates(sketch).tolist() == [], "nothing is not a copy of nothing"
    assert candidates(sketched([])).shape == (0, 2)


def test_a_signature_depends_on_its_text_only():
    rng = random.Random(1)
    texts = [sentence(rng, rng.randrange(1, 80)) for _ in range(50)]
    together = signatures(texts)
    for t in (0, 7, 49):
        np.testing.assert_array_equal(signatures([texts[t]])[0], together[t])


def test_another_process_gets_the_same_signature():
    code = """if True:
        from domainwright.curate._sketch import signatures
        print(signatures(["a b c d e f"]).sum())"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == int(signatures(["a b c d e f"]).sum())


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.9])
def test_estimates_and_candidates_follow_the_formula(share):
    """300 pairs whose similarity is known: the mean agreement and the hit rate within 4 sigma."""
    rng = random.Random(round(share * 100))
    base, pairs, size = [], 300, 400
    for n in range(pairs):
        left = [f"p{n}x{k}" for k in range(size)]
        right = [w if k < size * share else f"q{n}x{k}" for k, w in enumerate(left)]
        rng.shuffle(left)
        base += [" ".join(left), " ".join(right)]
    true = share / (2 - share)
    sketch = sketched(base, words_each=1)
    agree = agreement(sketch.signature_TK, np.arange(2 * pairs).reshape(pairs, 2))
    sigma = (true * (1 - true) / BINS) ** 0.5
    assert abs(agree.mean() - true) < 4 * sigma / pairs**0.5
    # Of one permutation the entries exclude each other a little: less spread than of many.
    assert agree.std() < 1.2 * sigma
    chance = 1 - (1 - true**BAND) ** BANDS
    found = {tuple(pair) for pair in candidates(sketch).tolist()}
    hits = sum((2 * n, 2 * n + 1) in found for n in range(pairs))
    assert abs(hits / pairs - chance) < 4 * (chance * (1 - chance) / pairs) ** 0.5 + 1e-9
    assert len(found) == hits, "unrelated texts are no candidates"


def test_candidates_are_the_pairs_with_an_equal_band():
    rng = np.random.default_rng(0)
    signature_TK = rng.integers(0, 9, size=(60, BINS)).astype(np.uint32)
    signature_TK[7] = signature_TK[31]
    want = [
        [i, j]
        for j in range(60)
        for i in range(j)
        if (signature_TK[i] == signature_TK[j]).reshape(BANDS, BAND).all(axis=1).any()
    ]
    sketch = Sketch(signature_TK, band_keys(signature_TK))
    assert candidates(sketch, most=60).tolist() == want
    assert [7, 31] in want and len(want) > 5


def test_a_full_bucket_gives_some_pairs_or_all():
    sketch = sketched(["the same words stand in every row"] * 40)
    assert len(candidates(sketch, most=40)) == 40 * 39 / 2
    assert len(candidates(sketch)) < 40 * 39 / 2
