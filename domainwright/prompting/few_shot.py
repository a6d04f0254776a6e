"""Solved training rows ahead of the question, the nearest ones, nearest last.

Source: Liu et al. 2022 (KATE, arXiv:2101.06804): nearest examples beat random ones, and the
last one counts most. A row of the test item's own group is never shown.
"""

import numpy as np

from domainwright.core.records import Message, Row
from domainwright.core.seeds import generator
from domainwright.models.encoder import default_encoder
from domainwright.models.forms import Prompt, in_one_text, solved, written
from domainwright.prompting import PROMPTINGS
from domainwright.prompting._sources import MARKERS, Sources, ask, question_of

POOL = 1500
"""Most training rows that are searched: vectors of more cost minutes and change little."""


@PROMPTINGS.register
class FewShot:
    summary = "The nearest solved examples ahead of the question."
    needs: tuple[str, ...] = ("examples",)

    def __init__(self, sources: Sources) -> None:
        self._take(sources)
        self.vectors = default_encoder().encode(
            [question_of(r) for r in self.pool], sources.listen, cache=sources.vectors
        )

    def _take(self, sources: Sources) -> None:
        self.sources = sources
        pool = list(sources.examples)
        if len(pool) > POOL:
            chosen = sorted(generator(0, "few_shot pool").permutation(len(pool))[:POOL])
            pool = [pool[i] for i in chosen]
        self.pool = pool
        self.groups = np.array([r.group for r in pool])

    def _nearness(self, row: Row) -> np.ndarray:
        """One number per row of the pool, the highest first to be shown."""
        near: np.ndarray = self.vectors @ default_encoder().vector(question_of(row))
        return near

    def nearest(self, row: Row) -> list[int]:
        """Numbers of the pool's rows, the first to be shown first; none of the item's group."""
        near = np.where(self.groups == row.group, -np.inf, self._nearness(row))
        return [int(n) for n in np.argsort(-near, kind="stable") if np.isfinite(near[n])]

    def prompt(self, row: Row) -> Prompt:
        settings = self.sources.settings
        chosen: list[int] = []
        room = settings.context_tokens
        for number in self.nearest(row):
            if len(chosen) == settings.examples:
                break
            cost = sum(self.sources.count_tokens(t) for t in solved(self.pool[number])) + MARKERS
            if cost <= room:
                chosen.append(number)
                room -= cost
        shown = [self.pool[i] for i in reversed(chosen)]
        ids = tuple(r.id for r in shown)
        if in_one_text(row):
            return ask(row, settings, lead="".join(map(written, shown)), examples=ids)
        turns = [
            m for q, a in map(solved, shown) for m in (Message("user", q), Message("assistant", a))
        ]
        return ask(row, settings, before=turns, examples=ids)
