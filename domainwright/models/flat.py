"""A flat batch: documents one after the other in a single row, no padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Flat:
    """T tokens of several documents."""

    ids_T: Tensor
    positions_T: Tensor
    """Position of each token in its own document, from 0."""
    bounds: tuple[int, ...]
    """First token of each document, then T."""

    @property
    def tokens(self) -> int:
        return self.bounds[-1]

    def documents(self) -> list[slice]:
        return [slice(a, b) for a, b in pairwise(self.bounds)]


def flatten(documents: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Flat:
    """Token lists, none empty, as one flat batch.

    >>> flatten([[5, 6], [7]]).positions_T.tolist()
    [0, 1, 0]
    """
    bounds: list[int] = [0]
    ids: list[int] = []
    positions: list[int] = []
    for document in documents:
        ids.extend(document)
        positions.extend(range(len(document)))
        bounds.append(len(ids))
    return Flat(
        torch.tensor(ids, dtype=torch.long, device=device),
        torch.tensor(positions, dtype=torch.long, device=device),
        tuple(bounds),
    )
