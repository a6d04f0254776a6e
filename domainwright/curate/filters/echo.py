"""Drop answers that only repeat their question."""

from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Chat, Row
from domainwright.curate._glance import Glancing
from domainwright.curate.filters import FILTERS, Drop, Look, Sample
from domainwright.maths.words import words


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """An answer that is its question again: dropped."""

    least_words: int = 6
    """Shorter answers may repeat a word of the question rightly."""

    default: ClassVar[bool] = True
    order: ClassVar[int] = 62
    finds: ClassVar[tuple[str, ...]] = ("echo",)

    def ready(self, sample: Sample) -> Look:
        return Glancing(look=self._look, clear=lambda seen: seen.none_of(Chat))

    def _look(self, row: Row) -> Drop | None:
        if not isinstance(row, Chat) or not 0.8 <= len(row.answer) / len(row.question) <= 1.2:
            return None
        said = words(row.answer)
        same = len(said) >= self.least_words and said == words(row.question)
        return Drop("echo", "the answer repeats the question word for word") if same else None
