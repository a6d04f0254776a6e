"""Which test rows does a training set give away?

Four kinds of leak, each of which finds what the others miss:

    same_content     question and answer are equal word for word
    near_duplicate   Jaccard similarity of 5-grams at least 0.8
    shared_passage   half of the test row's 13-grams stand in one training row
    same_group       both come from one document, patient or contract

Source of the 13-grams: Brown et al. 2020, arXiv:2005.14165, appendix C. N-grams that
many training rows share (instructions, form letters) say nothing and are left out.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from domainwright.core.records import Row, SetAside
from domainwright.curate._shingles import shingled
from domainwright.curate.content import content
from domainwright.curate.near_duplicates import EXACT_BELOW_WORDS, pairs
from domainwright.maths.words import words

_PASSAGE_WORDS = 13
_PASSAGE_SHARE = 0.5
_COMMON_ROWS, _COMMON_SHARE = 10, 0.01
"""An n-gram in more training rows than this (the larger of the two) is common property."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One training row, or document, that gives one test row away."""

    test: str
    train: str
    """Ids."""
    kind: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapReport:
    """Where test rows are given away. Every row concerned is named in at least one leak."""

    leaks: tuple[Leak, ...]
    in_documents: tuple[Leak, ...]
    """Test passages in the documents that retrieval may quote: information, no fault."""

    @property
    def test_ids(self) -> frozenset[str]:
        return frozenset(leak.test for leak in self.leaks)

    @property
    def train_ids(self) -> frozenset[str]:
        return frozenset(leak.train for leak in self.leaks)

    @property
    def counts(self) -> dict[str, int]:
        """Kind -> test rows given away in that way; "in_documents" beside them."""
        seen = Counter(kind for kind, _ in {(leak.kind, leak.test) for leak in self.leaks})
        return {**seen, "in_documents": len({leak.test for leak in self.in_documents})}


def overlap(
    train: Sequence[Row], test: Sequence[Row], documents: Sequence[Row] = ()
) -> OverlapReport:
    """Compare every test row with every training row, and with the documents."""
    train_texts, test_texts, document_texts = (
        [content(row) for row in rows] for rows in (train, test, documents)
    )
    leaks = [
        *_equal(train, test, "same_group", lambda row: row.group, "group"),
        *_equal(train, test, "same_content", lambda row: " ".join(words(content(row))), "text"),
        *(
            Leak(test[j].id, train[i].id, "near_duplicate", f"similarity {similarity:.2f}")
            for i, j, similarity in _near(train_texts, test_texts)
        ),
        *_passages(train, train_texts, test, test_texts),
    ]
    return OverlapReport(
        leaks=tuple(leaks),
        in_documents=tuple(_passages(documents, document_texts, test, test_texts)),
    )


def remove_leaks(train: Sequence[Row], report: OverlapReport) -> tuple[list[Row], list[SetAside]]:
    """(training rows kept, rows set aside as "leaks_into_test")."""
    leaks = defaultdict[str, list[Leak]](list)
    for leak in report.leaks:
        leaks[leak.train].append(leak)
    aside = [
        SetAside.of(row, "leaks_into_test", _summary(leaks[row.id]))
        for row in train
        if row.id in leaks
    ]
    return [row for row in train if row.id not in leaks], aside


def _equal(
    train: Sequence[Row], test: Sequence[Row], kind: str, key: Callable[[Row], str], noun: str
) -> Iterator[Leak]:
    """Leaks that name every row on both sides once, not every pair: a group may be large."""
    sides = defaultdict[str, tuple[list[Row], list[Row]]](lambda: ([], []))
    for side, rows in enumerate((train, test)):
        for row in rows:
            sides[key(row)][side].append(row)
    for value, (left, right) in sides.items():
        if value and left and right:
            shown = repr(value if len(value) <= 60 else value[:57] + "...")
            named = [(row, right[0]) for row in left] + [(left[0], row) for row in right[1:]]
            for own, other in named:
                yield Leak(other.id, own.id, kind, f"{noun} {shown}")


def _near(train: list[str], test: list[str]) -> Iterator[tuple[int, int, float]]:
    """(train, test, similarity), without word-for-word equals: those have their own kind."""
    rows = defaultdict[str, tuple[list[int], list[int]]](lambda: ([], []))
    for side, texts in enumerate((train, test)):
        for n, text in enumerate(texts):
            rows[" ".join(words(text))][side].append(n)
    distinct = [text for text in rows if text]
    found = pairs(distinct, exact_below_words=EXACT_BELOW_WORDS)
    for one, other, similarity in found:
        for left, right in ((one, other), (other, one)):
            for i in rows[distinct[left]][0]:
                for j in rows[distinct[right]][1]:
                    yield i, j, similarity


def _passages(
    train: Sequence[Row], train_texts: list[str], test: Sequence[Row], test_texts: list[str]
) -> Iterator[Leak]:
    """Pairs in which at least half of the test row's uncommon 13-grams stand in the other row."""
    gram_S, row_S = _grams(train_texts)
    test_gram_S, test_row_S = _grams(test_texts)
    if not len(gram_S) or not len(test_gram_S):
        return
    distinct, holders = np.unique(gram_S, return_counts=True)
    common = distinct[holders > max(_COMMON_ROWS, _COMMON_SHARE * len(train))]
    kept = ~np.isin(test_gram_S, common)
    test_gram_S, test_row_S = test_gram_S[kept], test_row_S[kept]
    total_T = np.bincount(test_row_S, minlength=len(test))
    begin_S = np.searchsorted(gram_S, test_gram_S, side="left")
    count_S = np.searchsorted(gram_S, test_gram_S, side="right") - begin_S
    owner = np.repeat(test_row_S, count_S)
    offset = np.arange(count_S.sum()) - np.repeat(np.cumsum(count_S) - count_S, count_S)
    holder = row_S[np.repeat(begin_S, count_S) + offset]
    pair, shared = np.unique(owner * len(train) + holder, return_counts=True)
    for key, n in zip(pair.tolist(), shared.tolist(), strict=True):
        j, i = divmod(key, len(train))
        if n >= _PASSAGE_SHARE * total_T[j]:
            detail = f"{n} of {total_T[j]} runs of {_PASSAGE_WORDS} words"
            yield Leak(test[j].id, train[i].id, "shared_passage", detail)


def _grams(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, rows), sorted by hash, each pair once; texts under 13 words have none."""
    long = [n for n, text in enumerate(texts) if len(words(text)) >= _PASSAGE_WORDS]
    hash_S, bounds = shingled([texts[n] for n in long], _PASSAGE_WORDS)
    row_S = np.repeat(np.array(long, dtype=np.int64), np.diff(bounds))
    order = np.lexsort((row_S, hash_S))
    hash_S, row_S = hash_S[order], row_S[order]
    new = np.ones(len(hash_S), dtype=bool)
    new[1:] = (hash_S[1:] != hash_S[:-1]) | (row_S[1:] != row_S[:-1])
    return hash_S[new], row_S[new]


def _summary(leaks: list[Leak]) -> str:
    first = leaks[0]
    more = f" and {len(leaks) - 1} more" if len(leaks) > 1 else ""
    return f"{first.kind} with test row {first.test!r} ({first.detail}){more}"
