"""Solved training rows ahead of the question, drawn by lot: what nearness has to beat."""

import numpy as np

from domainwright.core.records import Row
from domainwright.core.seeds import generator
from domainwright.prompting import PROMPTINGS
from domainwright.prompting._sources import Sources
from domainwright.prompting.few_shot import FewShot


@PROMPTINGS.register
class FewShotRandom(FewShot):
    summary = "Solved examples drawn by lot, ahead of the question."

    def __init__(self, sources: Sources) -> None:
        self._take(sources)

    def _nearness(self, row: Row) -> np.ndarray:
        """The same draw for the same row in every run."""
        return generator(0, "few_shot_random", row.id).random(len(self.pool))
