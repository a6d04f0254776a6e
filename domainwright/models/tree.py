"""Token sequences as a prefix tree: what several of them begin with is read once.

    [few-shot block]─┬─[question 1]─┬─[choice]
                     │              └─[choice]
                     └─[question 2]─┬─[choice]
                                    └─[choice]

Each node is a document of a flat batch that continues its parent. Only branchings make
nodes: a sequence that another one continues ends inside a document.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from domainwright.models.flat import Flat, flatten

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    documents: list[Tokens]
    """The tokens of each node; parents come first."""
    parents: list[int | None]
    depths: list[int]
    """Tokens before each node on its path."""
    starts: list[int]
    """First row of each node in the flat batch."""
    nodes: list[int]
    """The node in which each sequence ends, in the order given."""

    @property
    def tokens(self) -> int:
        return self.starts[-1] + len(self.documents[-1])

    def flat(self, device: torch.device) -> Flat:
        return flatten(self.documents, device, self.parents)

    def rows(self, number: int, start: int, stop: int) -> list[int]:
        """Rows of the flat batch with positions `start` to `stop` of a sequence.

        >>> tree = grow([(5, 6, 7), (5, 6, 8, 9)])
        >>> tree.documents, tree.rows(1, 1, 4)
        ([(5, 6), (7,), (8, 9)], [1, 3, 4])
        """
        found: list[range] = []
        node: int | None = self.nodes[number]
        while node is not None and start < stop:
            first = max(start, self.depths[node])
            shift = self.starts[node] - self.depths[node]
            found.append(range(first + shift, stop + shift))
            # The sequence may end before this node's last token, and begin in an ancestor.
            stop, node = min(stop, first), self.parents[node]
        return [row for part in reversed(found) for row in part]


def shared(a: Tokens, b: Tokens) -> int:
    """Length of the longest common prefix.

    >>> shared((1, 2, 3), (1, 2, 4, 5))
    2
    """
    low, high = 0, min(len(a), len(b))
    while low < high:
        # Slices are compared in C: far faster than a loop over the tokens of a few-shot block.
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def grow(sequences: Sequence[Tokens], *, branch: bool = True) -> Tree:
    """The prefix tree of sequences, none empty.

    Args:
        branch: False makes every node a root, for bases that read a document's ancestors
            again. Sequences that another one continues are then still read once.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    leaves: list[Tokens] = []
    owners: list[list[int]] = []
    """Sequences that end on the path to each leaf."""
    common: list[int] = []
    """Tokens that each leaf shares with the next."""
    for i in order:
        tokens = sequences[i]
        if leaves:
            length = shared(leaves[-1], tokens)
            if length == len(leaves[-1]):
                leaves[-1] = tokens
                owners[-1].append(i)
                continue
            common.append(length if branch else 0)
        leaves.append(tokens)
        owners.append([i])
    return _nodes(leaves, owners, common, len(sequences))


def _nodes(
    leaves: list[Tokens], owners: list[list[int]], common: list[int], sequences: int
) -> Tree:
    tree = Tree([], [], [], [], [0] * sequences)
    total = 0
    # Not recursive: texts that continue each other nest as deep as there are texts.
    waiting: list[tuple[int, int, int, int | None]] = [(0, len(leaves), 0, None)]
    while waiting:
        first, last, depth, parent = waiting.pop()
        end = min(common[first : last - 1], default=len(leaves[first]))
        node = parent
        if end > depth:
            node = len(tree.documents)
            tree.documents.append(leaves[first][depth:end])
            tree.parents.append(parent)
            tree.depths.append(depth)
            tree.starts.append(total)
            total += end - depth
        if last - first == 1:
            assert node is not None, "a sequence has at least one token"
            for owner in owners[first]:
                tree.nodes[owner] = node
            continue
        cuts = [first, *(i + 1 for i in range(first, last - 1) if common[i] == end), last]
        waiting.extend((a, b, end, node) for a, b in reversed(list(pairwise(cuts))))
    return tree
