"""The words of a domain, and which of them the training rows never show.

    G²(word) = 2 Σ over the four cells (this word or another, documents or general text) of
               observed · ln(observed / expected)

A word is a term where G² is at least 15.13 (p < 0.0001), it stands in the documents three times
or more, and relatively more often than in general text.

Source: Dunning 1993, "Accurate methods for the statistics of surprise and coincidence".
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from domainwright.maths.words import words

LEAST_RATIO = 15.13
LEAST_COUNT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    word: str
    """In lower case, without accents."""
    ratio: float
    """G²."""
    documents: int
    """How often it stands in the documents."""
    rows: int
    """How often it stands in the training rows."""


def terms(documents: Iterable[str], general: Iterable[str], rows: Iterable[str]) -> list[Term]:
    """The terms of the documents, the most typical first; words without a letter are none."""
    there, usual, learnt = (_counted(texts) for texts in (documents, general, rows))
    sizes = there.total(), usual.total()
    found = [
        Term(
            word=word,
            ratio=likelihood_ratio(count, usual[word], *sizes),
            documents=count,
            rows=learnt[word],
        )
        for word, count in there.items()
        if count >= LEAST_COUNT
        and count * sizes[1] > usual[word] * sizes[0]
        and any(sign.isalpha() for sign in word)
    ]
    typical = [term for term in found if term.ratio >= LEAST_RATIO]
    return sorted(typical, key=lambda term: (-term.ratio, term.word))


def likelihood_ratio(here: int, there: int, size_here: int, size_there: int) -> float:
    """G² of a word that stands `here` times among `size_here` words, `there` among `size_there`.

    >>> likelihood_ratio(5, 10, 100, 200)
    0.0
    """
    share = (here + there) / max(1, size_here + size_there)
    total = 0.0
    for count, size in ((here, size_here), (there, size_there)):
        for observed, expected in (
            (count, size * share),
            (size - count, size * (1 - share)),
        ):
            if observed:
                total += observed * math.log(observed / expected)
    return 2 * total


def coverage(found: Sequence[Term]) -> float:
    """Share of the terms that the training rows show at least once; 1 where there are none."""
    return sum(term.rows > 0 for term in found) / len(found) if found else 1.0


def _counted(texts: Iterable[str]) -> Counter[str]:
    found = Counter[str]()
    for text in texts:
        found.update(words(text))
    return found
