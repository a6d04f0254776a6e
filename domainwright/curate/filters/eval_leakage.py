"""Drop rows that give evaluation items away: what the model is examined on is not learnt.

    item in row   most of the item's question stands in the row, as runs of words
    row in item   most of what the row teaches stands in the item, as runs of words

Runs have 8 words (a question of fewer is one run, and must have at least 5). Runs that
many items share are instructions ("Which of the following ...") and count for nothing.
Brown et al. 2020, arXiv:2005.14165, appendix C, use 13 words; questions are often shorter.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from domainwright.core.records import Choice, Row
from domainwright.curate._fields import learnt
from domainwright.curate._glance import Glancing
from domainwright.curate._shingles import runs, word_hashes
from domainwright.curate.content import answer, content, question
from domainwright.curate.filters import FILTERS, Drop, Look, Sample

_RUN_WORDS = 8
_LEAST_WORDS = 5
_COMMON_ITEMS = 5
_RARE_SHARE = 0.3
_LEAST_RUNS = 3


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class EvalLeakage:
    """Rows that repeat an item of the files given with --against: dropped."""

    item_share: float = 0.6
    """Share of the item's runs that must stand in the row. In (0, 1]."""
    row_share: float = 0.8
    """Share of the row's runs that must stand in the item. In (0, 1]."""

    default: ClassVar[bool] = True
    order: ClassVar[int] = 41
    finds: ClassVar[tuple[str, ...]] = ("eval_leakage",)

    def ready(self, sample: Sample) -> Look:
        if not sample.against:
            return Glancing(look=lambda row: None, clear=lambda seen: seen.none_of())
        return _Index(sample.against, self).look


def _asked(item: Row) -> list[str]:
    """What gives the item away: its question, and its passage with the question."""
    whole = question(item) or answer(item)
    if not isinstance(item, Choice) or not item.context:
        return [whole]
    return [item.question, whole]


class _Index:
    """The runs of every evaluation item, sorted, so that a row is looked up at once.

    Dimension key:
        N  items      R  runs of all items
    """

    def __init__(self, items: tuple[Row, ...], settings: EvalLeakage) -> None:
        self.settings = settings
        # An item that is asked about a passage stands here twice: with the passage and without.
        entries = [(item, text) for item in items for text in _asked(item)]
        self.items, texts = [item for item, _ in entries], [text for _, text in entries]
        word_W, count_N = word_hashes(texts)
        ends = np.cumsum(count_N)
        listed = [word_W[end - count : end] for end, count in zip(ends, count_N, strict=True)]
        own = [
            np.unique(runs(words, min(_RUN_WORDS, len(words))))
            if len(words) >= _LEAST_WORDS
            else words[:0]
            for words in listed
        ]
        self.short = sorted(
            {len(words) for words in listed if _LEAST_WORDS <= len(words) < _RUN_WORDS}
        )
        run_R = np.concatenate([np.empty(0, np.uint64), *own])
        owner_R = np.repeat(np.arange(len(own)), [len(found) for found in own])
        order = np.argsort(run_R, kind="stable")
        run_R, owner_R = run_R[order], owner_R[order]
        _, place_R, count = np.unique(run_R, return_inverse=True, return_counts=True)
        rare_R = count[place_R] <= _COMMON_ITEMS
        self.total_N = np.bincount(owner_R[rare_R], minlength=len(own))
        # Of an item that is mostly instruction, a rare run or two is too little to go by.
        known = self.total_N >= _RARE_SHARE * np.array([len(found) for found in own])
        rare_R &= known[owner_R]
        self.run_R, self.owner_R = run_R[rare_R], owner_R[rare_R]

    def look(self, row: Row) -> Drop | None:
        word_W, _ = word_hashes([content(row)])
        run_S = np.unique(np.concatenate([runs(word_W, n) for n in (_RUN_WORDS, *self.short)]))
        begin_S = np.searchsorted(self.run_R, run_S, side="left")
        count_S = np.searchsorted(self.run_R, run_S, side="right") - begin_S
        met = np.flatnonzero(count_S)
        if not len(met):
            return None
        hit = np.concatenate([self.owner_R[begin_S[m] : begin_S[m] + count_S[m]] for m in met])
        near, shared = np.unique(hit, return_counts=True)
        share = shared / self.total_N[near]
        best = int(np.argmax(share))
        if share[best] >= self.settings.item_share:
            n = int(near[best])
            how = f"{shared[best]} of its {self.total_N[n]} runs of words"
            return self._drop(n, how)
        return self._in_item(row, near.tolist())

    def _in_item(self, row: Row, near: list[int]) -> Drop | None:
        own = np.unique(runs(word_hashes(["\n".join(learnt(row))])[0], _RUN_WORDS))
        if len(own) < _LEAST_RUNS:
            return None
        for n in near:
            item = runs(word_hashes([content(self.items[n])])[0], _RUN_WORDS)
            shared = int(np.isin(own, item).sum())
            if shared >= self.settings.row_share * len(own):
                return self._drop(n, f"{shared} of the row's {len(own)} runs stand in it")
        return None

    def _drop(self, n: int, how: str) -> Drop:
        item = self.items[n]
        return Drop("eval_leakage", f"gives {item.id!r} of {item.file} away: {how}")
