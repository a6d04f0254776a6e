"""One file per way to choose k of N rows: which of them are worth training on?

A file registers one frozen dataclass; its fields are its settings. It has

    needs                  what it looks at: "vectors", "target_vectors", "losses", "alone",
                           "margins", "bags", "lengths", "influence"
    choose(seen, count)    numbers of the rows, in the order in which they were chosen

A choice follows from what is seen and the seed alone. Of equal rows the first is taken. Nothing
of size N x N is ever held.

Dimension key: N rows, D numbers of a sentence vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from domainwright.core.registry import Folder

TIE = 2e-6
"""Values this near to the best, relative to it, are equal: a product of float32 is no finer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of N rows. None: nobody asked for it, or such rows have none."""

    count: int
    """N."""
    seed: int = 0
    vectors_ND: np.ndarray | None = None
    """Sentence vectors, float32."""
    target_vectors_MD: np.ndarray | None = None
    """Of the target's texts."""
    loss_N: np.ndarray | None = None
    """Of what a row teaches, behind its question, by the base. Nats per token."""
    alone_N: np.ndarray | None = None
    """The same without the question."""
    margin_N: np.ndarray | None = None
    """Of multiple choice: p(1) - p(2), the probabilities of the two likeliest choices."""
    bags_N: Sequence[np.ndarray] | None = None
    """Buckets of a row's words and pairs of words; see `relevance`."""
    target_B: np.ndarray | None = None
    """How often each bucket occurs in the target."""
    length_N: np.ndarray | None = None
    """Characters of question and answer."""
    influence_N: np.ndarray | None = None
    """How much a row pulls the base where the development rows want it; NaN: it teaches nothing."""


@dataclass(frozen=True, slots=True)
class Chosen:
    rows: list[int]
    """In the order chosen; fewer than asked for where the others are refused."""
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """Row number -> (reason, detail) of rows that must not be chosen, however many are wanted."""


class Selection(Protocol):
    """What every file in this folder registers."""

    needs: ClassVar[tuple[str, ...]]

    def choose(self, seen: Seen, count: int) -> Chosen:
        """At most `count` of the rows; 1 <= count <= N."""


SELECTIONS: Folder[type[Selection]] = Folder("domainwright.curate.selection", "selection")


def best(value_N: np.ndarray) -> int:
    """Number of the largest value; of equal ones the first. -inf is never equal to a number."""
    most = value_N.max()
    return int(np.argmax(value_N >= most - TIE * max(1.0, abs(float(most)))))
