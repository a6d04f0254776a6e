"""Put placeholders where a person, or the place where one lives, is named: [PERSON_1], [PLACE_1].

By evidence and lists (`_names`), not by a model: names without a sign around them are missed, and
public figures are replaced as well as patients. What stood there is given to the caller and never
written into the dataset.
"""

from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.errors import ConfigError
from domainwright.core.records import Row
from domainwright.curate._names import NAME_KINDS, named
from domainwright.curate._redaction import redacted
from domainwright.curate.filters import FILTERS, Change, Drop, Look, Sample


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Names of persons, towns and facilities: replaced by placeholders, one for each person."""

    kinds: tuple[str, ...] = NAME_KINDS
    """What is looked for."""

    # Questions about presidents, judges and authors lose what they are about.
    default: ClassVar[bool] = False
    # Behind `pii`: "X Y at [EMAIL_1]" is evidence, and streets are gone.
    order: ClassVar[int] = 95
    finds: ClassVar[tuple[str, ...]] = ("names",)

    def __post_init__(self) -> None:
        for name in self.kinds:
            if name not in NAME_KINDS:
                raise ConfigError(
                    f"names.kinds names {name!r}, which is no kind of name.",
                    f"use some of: {', '.join(NAME_KINDS)}.",
                )

    def ready(self, sample: Sample) -> Look:
        return self._look

    def _look(self, row: Row) -> Change | Drop | None:
        return redacted(row, lambda texts: named(texts, self.kinds), "names")
