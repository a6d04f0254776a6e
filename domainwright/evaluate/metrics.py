"""How far a reply agrees with the reference.

    exact match, token F1   SQuAD: lower case, no punctuation, no articles, single spaces
    ROUGE-L                 longest common subsequence, F1, as in the rouge_score package

Source: Rajpurkar et al. 2016 (arXiv:1606.05250), evaluate-v1.1; Lin 2004 (W04-1013).
"""

import re
import string
from collections import Counter
from functools import cache
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """SQuAD's normal form.

    >>> normalise("The  Quick, brown fox!")
    'quick brown fox'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(reply: str, reference: str) -> float:
    return float(normalise(reply) == normalise(reference))


def token_f1(reply: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words. Two empty texts agree.

    >>> token_f1("a cat sat", "the cat lay")
    0.5
    """
    got, want = normalise(reply).split(), normalise(reference).split()
    if not got or not want:
        return float(got == want)
    common = sum((Counter(got) & Counter(want)).values())
    return 2 * common / (len(got) + len(want))


def rouge_l(reply: str, reference: str) -> float:
    return float(_scorer().score(reference, reply)["rougeL"].fmeasure)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


SCORES = {"token_f1": token_f1, "rouge_l": rouge_l, "exact_match": exact_match}
"""Scores of a written answer that a study can be decided by."""
