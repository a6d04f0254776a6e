"""Do these words look like the others? Letter triples, learnt from the data itself.

    fit(word) = mean over its triples abc of log P(c | ab), add-one smoothed

Learnt from the data and not shipped, so that it suits any language that is written with
letters, and gene names where genes are the subject.
"""

import re
from collections.abc import Iterable

import numpy as np

from domainwright.curate._remembered import Remembered

WORD = re.compile(r"[^\W\d_]+")
_SIZE = 64
_LEAST_CHARS = 20_000
"""Fewer letters than this teach nothing: then no word looks odd."""
_LEAST_VOCABULARY = 1_000
_MOST_CHARS = 2_000_000
_WORST_SHARE = 0.1
_BACKWARDS = 1.0
_NOISE = -4.0


class Letters:
    """What words of this data look like."""

    def __init__(self, texts: Iterable[str]) -> None:
        codes, vocabulary, seen = list[np.ndarray](), set[str](), 0
        # Distinct ones: choices that every row repeats would outvote the passages they are about.
        for text in dict.fromkeys(texts):
            found = WORD.findall(text[:20_000].lower())
            if len(vocabulary) < _LEAST_VOCABULARY:
                vocabulary.update(found)
            codes.append(_codes(" ".join(found)))
            seen += len(codes[-1])
            if seen > _MOST_CHARS:
                break
        # A thousand times the same sentence says nothing about other words.
        self.learnt = seen >= _LEAST_CHARS and len(vocabulary) >= _LEAST_VOCABULARY
        self._log = _learnt(codes)
        if self.learnt:
            # Noise in the sample would teach that noise is usual: once more, without the worst.
            fits = np.array([_mean(self._log, code) for code in codes])
            limit = np.quantile(fits, _WORST_SHARE)
            kept = [code for code, fit in zip(codes, fits, strict=True) if fit >= limit]
            self._log = _learnt(kept)
        self._triples, self._kinds = Remembered(self._triple), Remembered(self._judged)

    def fit(self, word: str) -> float:
        """Mean log-probability of the word's letters, in nats; near -2 for common words."""
        padded, triples = f"  {word} ", self._triples
        return sum([triples[padded[n : n + 3]] for n in range(len(word) + 1)]) / (len(word) + 1)

    def kind(self, word: str) -> str:
        """ "plain", "backwards" (it would fit when read from its end) or "noise"."""
        return self._kinds[word]

    def _triple(self, letters: str) -> float:
        # One word at a time is too few for numpy.
        first, second, third = _numbers(letters)
        return float(self._log[first, second, third])

    def _judged(self, word: str) -> str:
        if not self.learnt or len(word) < 3:
            return "plain"
        own, mirrored = self.fit(word), self.fit(word[::-1])
        if mirrored > own + _BACKWARDS:
            return "backwards"
        return "noise" if max(own, mirrored) < _NOISE else "plain"


def _learnt(codes: Iterable[np.ndarray]) -> np.ndarray:
    counts = np.ones((_SIZE, _SIZE, _SIZE))
    for code in codes:
        np.add.at(counts, (code[:-2], code[1:-1], code[2:]), 1)
    return np.asarray(np.log(counts / counts.sum(axis=2, keepdims=True)))


def _mean(log: np.ndarray, code: np.ndarray) -> float:
    return float(log[code[:-2], code[1:-1], code[2:]].mean())


def _codes(text: str) -> np.ndarray:
    return _numbers(f"  {text} ")


def _numbers(text: str) -> np.ndarray:
    """Letters as numbers below 64. a to z have their own."""
    points = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)
    latin = points - 96
    return np.where(
        points == 32, 0, np.where((latin >= 1) & (latin <= 26), latin, 27 + points % 37)
    )
