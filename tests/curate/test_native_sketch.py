"""The compiled sketch is the one in numpy, number for number."""

from collections import Counter

import numpy as np
import pytest

from domainwright.core import compiled
from domainwright.core.seeds import generator
from domainwright.curate import _sketch, native
from domainwright.curate._shingles import folded
from domainwright.curate.copies import _similarity, similarity

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C++ compiler (g++)")

WORDS = "dose Dose 5 mg naïve “quoted” 東京 は x é the a".split() + [
    "w" * 70,
    "w" * 80,
    "--",
    "Ａ１",
]


def texts(seed):
    rng = generator(seed, "texts")
    made = ["", " ,. ", "one", "one two", "one two three", "é", "東京は大きい"]
    for _ in range(60):
        text = " ".join(rng.choice(WORDS, size=int(rng.integers(1, 90))))
        made += [text] * int(rng.choice([1, 1, 1, 2, 25]))
    return made


@needs_compiler
@pytest.mark.parametrize("seed", range(4))
def test_the_same_signatures_and_pairs(seed, monkeypatch):
    given = texts(seed)
    sketch = _sketch.sketched(given)
    pairs = _sketch.candidates(sketch)
    shares = _sketch.agreement(sketch.signature_TK, pairs)
    near = _sketch.candidates(sketch, 0.3)
    np.testing.assert_array_equal(near, pairs[shares >= 0.3])
    assert 0 < len(near) < len(pairs)
    monkeypatch.setattr(_sketch, "_PAIRS_HELD", 10)
    np.testing.assert_array_equal(pairs, _sketch.candidates(sketch))
    monkeypatch.setattr(_sketch, "library", lambda: None)
    np.testing.assert_array_equal(near, _sketch.candidates(sketch, 0.3))
    np.testing.assert_array_equal(sketch.signature_TK, _sketch.signatures(given))
    np.testing.assert_array_equal(pairs, _sketch.candidates(sketch))
    assert len(pairs) > 300


@needs_compiler
def test_words_and_gaps_of_every_length(monkeypatch):
    rng = generator(3, "lengths")
    signs = np.frombuffer(b"azAZ09mM@[`{/: .-_", dtype=np.uint8)
    given = ["x" * n + " " + "Y" * (140 - n) for n in range(140)]
    given += [bytes(rng.choice(signs, size=n)).decode() for n in range(1, 300)]
    given += [" " * n + "one two" + "\x00" * n for n in range(130)]
    found = _sketch.signatures(given)
    monkeypatch.setattr(_sketch, "library", lambda: None)
    np.testing.assert_array_equal(found, _sketch.signatures(given))


@needs_compiler
def test_every_alphabet_is_folded_as_in_python(monkeypatch):
    rng = generator(11, "alphabets")
    given = []
    for _ in range(300):
        points = rng.integers(0x80, 0x3400, size=60)
        words = ["".join(map(chr, points[n : n + 3])) + "ab" * (n % 2) for n in range(0, 60, 3)]
        given.append(" ".join([*words, "ΟΔΟΣ Σ", "e\u0301\u0323", "\ud800x", "한국어", "😀"]))
    found = _sketch.signatures(given)
    monkeypatch.setattr(_sketch, "library", lambda: None)
    np.testing.assert_array_equal(found, _sketch.signatures(given))
    assert len({tuple(row) for row in found.tolist()}) == len(given)


@needs_compiler
def test_more_pairs_than_rows(monkeypatch):
    given = ["the same words in every one of many rows"] * 3000
    found = _sketch.candidates(_sketch.sketched(given))
    monkeypatch.setattr(_sketch, "library", lambda: None)
    np.testing.assert_array_equal(found, _sketch.candidates(_sketch.sketched(given)))


@pytest.mark.parametrize("compiled_here", [pytest.param(True, marks=needs_compiler), False])
def test_parts_on_several_cores_change_nothing(compiled_here, monkeypatch):
    if not compiled_here:
        monkeypatch.setattr(_sketch, "library", lambda: None)
    given = texts(5)
    whole = _sketch.signatures(given)
    monkeypatch.setattr(_sketch, "_PART_TEXTS", 7)
    np.testing.assert_array_equal(whole, _sketch.signatures(given))


def test_no_text_at_all():
    assert _sketch.signatures([]).shape == (0, _sketch.BINS)
    assert _sketch.candidates(_sketch.sketched([])).shape == (0, 2)


def test_without_a_compiler_numpy_does_it(monkeypatch, tmp_path):
    monkeypatch.setenv("DOMAINWRIGHT_CACHE", str(tmp_path))
    monkeypatch.setenv("DOMAINWRIGHT_NATIVE", "0")
    assert native.library.__wrapped__() is None
    monkeypatch.delenv("DOMAINWRIGHT_NATIVE")
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert native.library.__wrapped__() is None
    with pytest.raises(compiled.NotCompiled, match="no C\\+\\+ compiler"):
        compiled.compiled("x", [], [])
    assert not list(tmp_path.iterdir())


NUMBERED = (
    "5 mg 50 130,000 130000 1,2345 1,234,567 x_y a1,234 the dose of it at night, (and) ,".split()
)


@needs_compiler
def test_two_texts_are_as_alike_as_in_python():
    rng, told = generator(7, "pairs"), Counter[str]()
    for _ in range(4_000):
        size = int(rng.choice([0, 1, 5, 11, 12, 13, 40, 90]))
        mine = [str(word) for word in rng.choice(NUMBERED + WORDS, size=size)]
        other = list(mine)
        for _ in range(int(rng.choice([0, 1, 2, 6]))):
            place = int(rng.integers(0, len(other) + 1))
            other[place : place + int(rng.integers(0, 2))] = [str(rng.choice(NUMBERED))]
        if rng.random() < 0.1:
            other = list(rng.permutation(other))
        pair = " ".join(mine), " ".join(other).upper()
        said = similarity(*pair)
        assert said == _similarity(*map(folded, pair)), pair
        told["none" if said is None else "equal" if said == 1 else "near"] += 1
    assert min(told.values()) > 300 and len(told) == 3
