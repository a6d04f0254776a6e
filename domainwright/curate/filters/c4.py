"""The rules of C4 for web pages.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.2. Made for pages of the web:
code, tables and lists fail them by design.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Row, Text
from domainwright.curate.filters import FILTERS, Drop, Look, Sample

_SENTENCE_END = re.compile(r"[.!?][\"'”’)]?(?:\s|$)")


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class C4:
    """Pages without sentences, with code or with placeholder text: dropped. Text rows only."""

    least_sentences: int = 5

    default: ClassVar[bool] = False
    order: ClassVar[int] = 74
    finds: ClassVar[tuple[str, ...]] = ("c4",)

    def ready(self, sample: Sample) -> Look:
        return self._look

    def _look(self, row: Row) -> Drop | None:
        if not isinstance(row, Text):
            return None
        if "lorem ipsum" in row.text.lower():
            return Drop("c4", "it holds lorem ipsum")
        if "{" in row.text:
            return Drop("c4", "it holds a curly bracket, as code does")
        sentences = len(_SENTENCE_END.findall(row.text))
        if sentences < self.least_sentences:
            return Drop("c4", f"{sentences} sentences")
        return None
