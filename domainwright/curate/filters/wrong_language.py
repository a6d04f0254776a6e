"""Drop rows that are in another language than the bulk of the data.

A row is dropped when its language is clear and is another one; a row too short to tell
stays. Quotations in another language stay too: the whole row is judged.
"""

from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Row
from domainwright.curate._fields import learnt, parts
from domainwright.curate._glance import Glancing
from domainwright.curate._languages import function_words, language, share_of
from domainwright.curate.filters import FILTERS, Drop, Look, Sample


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class WrongLanguage:
    """Rows in another language than most: dropped."""

    wanted: str | None = None
    """ISO 639-1 code, such as "en". None: what most of the data is in."""
    most_share: float = 0.15
    """Function words of the wanted language that a foreign row may hold. In [0, 1]."""

    default: ClassVar[bool] = True
    order: ClassVar[int] = 42
    finds: ClassVar[tuple[str, ...]] = ("wrong_language",)

    def ready(self, sample: Sample) -> Look:
        wanted = self.wanted or sample.language

        def look(row: Row) -> Drop | None:
            if wanted is None:
                return None
            # The whole row, then what is learnt from it: a foreign answer to a long
            # question would drown, and so would a short answer alone.
            whole = "\n".join(text for _, text in parts(row))
            for text in dict.fromkeys((whole, *learnt(row))):
                if share_of(text, wanted) > self.most_share:
                    continue
                found = language(text)
                if found not in (None, wanted):
                    return Drop("wrong_language", f"written in {found!r}, most is {wanted!r}")
            return None

        return Glancing(
            look=look,
            clear=lambda seen: seen.in_language(self.most_share),
            function_words=function_words(wanted),
        )
