"""Rows that read like a target: importance resampling of hashed words and pairs of words.

    p, q     shares of the buckets in the target, in all rows
    log w    Σ over the row's words and pairs of log(p + ε) - log(q + ε),    ε = 1e-8
    chosen   the largest log w + Gumbel noise: drawn by w, without replacement

log w grows with the length of a row, so the noise decides between rows that are nearly alike.

Source: Xie et al. 2023, DSIR, arXiv:2302.03169; Gumbel top-k: Kool et al. 2019,
arXiv:1903.06059. Time and memory O(words), two bytes a word or pair.

Dimension key: N rows, G words and pairs of one row, B buckets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import ClassVar

import numpy as np

from domainwright.core.errors import ConfigError
from domainwright.core.seeds import generator
from domainwright.curate.selection import SELECTIONS, Chosen, Seen
from domainwright.maths.words import words

BUCKETS = 10_000
_LEAST = 1e-8
"""ε: a bucket that the target lacks counts heavily against a row, but not infinitely."""


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Relevance:
    """Rows drawn by their importance weights for the target."""

    smoothing: float = 0.0
    """Added to the target's count in every bucket: 1 where the target is a page or less."""
    least_words: int = 1
    """Rows with fewer words are refused; DSIR, made for web pages, takes 100."""

    needs: ClassVar[tuple[str, ...]] = ("bags",)

    def __post_init__(self) -> None:
        if self.smoothing < 0 or self.least_words < 1:
            raise ConfigError(
                f"relevance has smoothing {self.smoothing} and least_words {self.least_words}.",
                "give smoothing from 0 and least_words from 1.",
            )

    def choose(self, seen: Seen, count: int) -> Chosen:
        assert seen.bags_N is not None and seen.target_B is not None, "relevance needs bags"
        weight_N = log_weights(seen.bags_N, seen.target_B + self.smoothing)
        # A row of n words has n - 1 pairs.
        length_N = [(len(bag) + 1) // 2 for bag in seen.bags_N]
        refused = {
            row: ("too_short", f"{length} words, below {self.least_words}")
            for row, length in enumerate(length_N)
            if length < self.least_words
        }
        drawn_N = weight_N + generator(seen.seed, "select").gumbel(size=seen.count)
        order = np.argsort(-drawn_N, kind="stable").tolist()
        return Chosen([row for row in order if row not in refused][:count], refused)


def log_weights(bags_N: Sequence[np.ndarray], target_B: np.ndarray) -> np.ndarray:
    """log w of every row."""
    pool_B = np.zeros(BUCKETS)
    for bag_G in bags_N:
        pool_B += np.bincount(bag_G, minlength=BUCKETS)
    gain_B = np.log(_shares(target_B) + _LEAST) - np.log(_shares(pool_B) + _LEAST)
    return np.array([gain_B[bag_G].sum() for bag_G in bags_N])


def bag(text: str) -> np.ndarray:
    """Buckets (G) of all words and all pairs of neighbours, uint16."""
    found = words(text)
    pairs = [f"{first} {second}" for first, second in pairwise(found)]
    return np.array([_bucket(gram) for gram in (*found, *pairs)], dtype=np.uint16)


def target_bag(texts: Sequence[str]) -> np.ndarray:
    """How often each bucket (B) occurs in the texts of a target.

    Raises:
        ConfigError: they hold no word.
    """
    target_B = np.zeros(BUCKETS)
    for text in texts:
        target_B += np.bincount(bag(text), minlength=BUCKETS)
    if not target_B.any():
        raise ConfigError("The target holds no word.", "give a file of texts with `target`.")
    return target_B


def _shares(count_B: np.ndarray) -> np.ndarray:
    shares: np.ndarray = count_B / max(float(count_B.sum()), 1.0)
    return shares


@lru_cache(maxsize=1 << 18)
def _bucket(gram: str) -> int:
    """The same on every machine, unlike Python's own hash."""
    return int.from_bytes(sha256(gram.encode("utf-8", "surrogatepass")).digest(), "big") % BUCKETS
