"""Rows drawn by lot: what every other selection has to beat, over several seeds."""

from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.seeds import generator
from domainwright.curate.selection import SELECTIONS, Chosen, Seen


@SELECTIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Without replacement, each row equally likely."""

    needs: ClassVar[tuple[str, ...]] = ()

    def choose(self, seen: Seen, count: int) -> Chosen:
        """The first `count` of a shuffled order: a larger choice holds the smaller ones."""
        return Chosen(generator(seen.seed, "select").permutation(seen.count)[:count].tolist())
