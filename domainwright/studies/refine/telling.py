"""Words that set the texts of one class apart from all others: class-based tf-idf.

    weight(t, c) = tf(t, c) / words(c) · log(1 + A / tf(t))        A: mean words of a class

tf(t, c) counts texts of the class with the word, so that one text which repeats a word names
nothing. A word must be commoner in the class than outside it, and stand in two of its texts where
the class has two.

Source: Grootendorst 2022, arXiv:2203.05794 (c-TF-IDF).
"""

import math
from collections import Counter
from collections.abc import Sequence

from domainwright.maths.words import words

WORDS = 3


def telling(texts: Sequence[str], others: Sequence[Sequence[str]], count: int = WORDS) -> list[str]:
    """The most telling words of `texts` beside the classes `others`, at most `count`.

    >>> telling(["what colour is fern", "what colour is kale"], [["where is fern", "what is it"]])
    ['colour', 'what']
    """
    own, rest = _counts(texts), [_counts(other) for other in others if other]
    every = Counter(own)
    for counts in rest:
        every.update(counts)
    mean = every.total() / (1 + len(rest))
    outside = sum(len(other) for other in others)
    weights = {
        word: times / own.total() * math.log(1 + mean / every[word])
        for word, times in own.items()
        if len(word) > 1
        and times >= min(2, len(texts))
        and (not outside or times / len(texts) > (every[word] - times) / outside)
    }
    return sorted(weights, key=lambda word: (-weights[word], word))[:count]


def _counts(texts: Sequence[str]) -> Counter[str]:
    return Counter(word for text in texts for word in set(words(text)))
