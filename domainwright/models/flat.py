"""A flat batch: documents one after the other in a single row, no padding.

A document may continue an earlier one, its parent: a question read once, then each of its
choices; a few-shot block read once, then every question. It sees its ancestors whole and
itself causally, so it equals the document that repeats them, without computing them again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Flat:
    """T tokens of several documents."""

    ids_T: Tensor
    positions_T: Tensor
    """Position of each token in its own document, ancestors counted, from 0."""
    bounds: tuple[int, ...]
    """First token of each document, then T."""
    parents: tuple[int | None, ...] = ()
    """The document that each one continues, always an earlier one. Empty: none has a parent."""

    @property
    def tokens(self) -> int:
        return self.bounds[-1]

    def documents(self) -> list[slice]:
        return [slice(a, b) for a, b in pairwise(self.bounds)]


def flatten(
    documents: Sequence[Sequence[int]],
    device: torch.device | str = "cpu",
    parents: Sequence[int | None] = (),
) -> Flat:
    """Token lists, none empty, as one flat batch.

    >>> flatten([[5, 6], [7]]).positions_T.tolist()
    [0, 1, 0]
    >>> flatten([[5, 6], [7], [8]], parents=[None, 0, 0]).positions_T.tolist()
    [0, 1, 2, 2]
    """
    bounds: list[int] = [0]
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    for number, document in enumerate(documents):
        parent = parents[number] if parents else None
        first = 0 if parent is None else ends[parent]
        ids.extend(document)
        positions.extend(range(first, first + len(document)))
        ends.append(first + len(document))
        bounds.append(len(ids))
    if all(parent is None for parent in parents):
        parents = ()
    return Flat(
        torch.tensor(ids, dtype=torch.long, device=device),
        torch.tensor(positions, dtype=torch.long, device=device),
        tuple(bounds),
        tuple(parents),
    )


def filled(flat: Flat, count: int) -> Flat:
    """The same with one document more, of `count` tokens, that nothing else sees.

    >>> filled(flatten([[5, 6]]), 2).bounds
    (0, 2, 4)
    """
    more = torch.arange(count, device=flat.positions_T.device)
    return Flat(
        torch.cat([flat.ids_T, torch.zeros_like(more)]),
        torch.cat([flat.positions_T, more]),
        (*flat.bounds, flat.tokens + count),
        (*flat.parents, None) if flat.parents else (),
    )


def chain(parents: Sequence[int | None], number: int) -> list[int]:
    """A document and its ancestors, the oldest first.

    >>> chain([None, 0, 1], 2)
    [0, 1, 2]
    """
    found = [number]
    while parents and (parent := parents[found[-1]]) is not None:
        found.append(parent)
    return found[::-1]


def tile(flat: Flat, copies: int) -> Flat:
    """The same documents several times over, copy after copy."""
    count = len(flat.bounds) - 1
    starts = [b + flat.tokens * copy for copy in range(copies) for b in flat.bounds[:-1]]
    parents = [
        None if parent is None else parent + count * copy
        for copy in range(copies)
        for parent in flat.parents
    ]
    return Flat(
        flat.ids_T.repeat(copies),
        flat.positions_T.repeat(copies),
        (*starts, flat.tokens * copies),
        tuple(parents),
    )


def whole(flat: Flat) -> Iterator[tuple[Tensor, int]]:
    """(ids of each document after its ancestors', number of its own)."""
    documents = flat.documents()
    for number, own in enumerate(documents):
        seen = [flat.ids_T[documents[i]] for i in chain(flat.parents, number)]
        yield torch.cat(seen), own.stop - own.start


def block_mask(flat: Flat) -> Tensor:
    """Boolean (1, 1, T, T): ancestors whole, itself causally, nothing across."""
    lengths = torch.tensor([b - a for a, b in pairwise(flat.bounds)])
    sees = torch.eye(len(lengths), dtype=torch.bool)
    for number in range(len(lengths)):
        sees[number, chain(flat.parents, number)] = True
    owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    # Ancestors come earlier in the row, so "not later" is all that causality asks of them.
    return sees[owner][:, owner].tril()[None, None].to(flat.ids_T.device)
