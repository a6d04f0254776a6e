"""Search over passages: BM25 and sentence vectors, fused by reciprocal rank.

    fused score = Σ over the two rankings of 1 / (60 + rank)

Source: Cormack et al. 2009 (reciprocal rank fusion); BM25 in Lucene's form, k1 = 1.5,
b = 0.75, by the bm25s library; cosine of all-MiniLM-L6-v2 vectors.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Document
from domainwright.maths.words import words
from domainwright.models.encoder import Encoder, default_encoder

RRF = 60
DEPTH = 50
"""Ranks of each search that take part in the fusion."""
PASSAGE_WORDS, OVERLAP_WORDS = 150, 22
"""About 200 tokens, 15 % overlap (methods.md §11.1)."""


@dataclass(frozen=True, slots=True)
class Passage:
    id: str
    group: str
    title: str
    text: str

    @property
    def shown(self) -> str:
        return f"{self.title}: {self.text}" if self.title else self.text


def passages_of(documents: Sequence[Document]) -> list[Passage]:
    """Documents cut into overlapping passages; each keeps where it stood, and its group."""
    found = []
    for document in documents:
        spaced = document.text.split()
        step = PASSAGE_WORDS - OVERLAP_WORDS
        starts = range(0, max(1, len(spaced) - OVERLAP_WORDS), step)
        title = document.heading + (f", page {document.page}" if document.page else "")
        for number, start in enumerate(starts):
            text = " ".join(spaced[start : start + PASSAGE_WORDS])
            found.append(Passage(f"{document.id}#{number}", document.group, title, text))
    return found


class Index:
    """A searchable set of texts. With one of the two kinds, its ranking alone counts.

    Args:
        encoder: makes the vectors. None: the one of this process.
    """

    def __init__(
        self,
        texts: Sequence[str],
        listen: Listener = quiet,
        vectors: Path | None = None,
        kinds: tuple[str, ...] = ("lexical", "dense"),
        encoder: Encoder | None = None,
    ) -> None:
        self.kinds, self._size = kinds, len(texts)
        if "lexical" in kinds:
            import bm25s

            logging.getLogger("bm25s").setLevel(logging.WARNING)
            self._bm25 = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
            self._bm25.index([words(t) for t in texts], show_progress=False)
        if "dense" in kinds:
            self.encoder = encoder or default_encoder()
            self._vectors = self.encoder.encode(list(texts), listen, cache=vectors)

    def search(self, query: str, allowed: np.ndarray | None = None) -> list[int]:
        """Numbers of the texts, best first, at most `DEPTH`.

        Args:
            allowed: True for the texts that may be found, shape (texts,).
        """
        rankings = []
        if "lexical" in self.kinds:
            asked = words(query)
            found = self._bm25.get_scores(asked) if asked else np.zeros(self._size)
            rankings.append((found, 0.0))
        if "dense" in self.kinds:
            rankings.append((self._vectors @ self.encoder.vector(query), -np.inf))
        fused = np.zeros(self._size)
        for scores, floor in rankings:
            if allowed is not None:
                scores = np.where(allowed, scores, -np.inf)
            # Stable: equal scores keep the order of the file, so results repeat.
            order = np.argsort(-scores, kind="stable")[:DEPTH]
            for rank, number in enumerate(order, 1):
                if scores[number] > floor:
                    fused[number] += 1 / (RRF + rank)
        order = np.argsort(-fused, kind="stable")[:DEPTH]
        return [int(n) for n in order if fused[n] > 0]
