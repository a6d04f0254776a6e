"""Put placeholders where a person or an account is identified: [EMAIL_1], [PHONE_2].

The same value has the same placeholder everywhere in a row. What stood there is given to
the caller and never written into the dataset. Names of persons and places: the filter `names`.
"""

from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.errors import ConfigError
from domainwright.core.records import Row
from domainwright.curate._glance import Glancing
from domainwright.curate._personal import NAMES, secrets
from domainwright.curate._redaction import redacted
from domainwright.curate.filters import FILTERS, Change, Drop, Look, Sample


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Pii:
    """E-mails, phones, cards, numbers of persons and accounts: replaced by placeholders."""

    kinds: tuple[str, ...] = tuple(name for name in NAMES if name != "CASE")
    """What is looked for. Numbers of cases only where a domain asks: courts publish theirs."""

    default: ClassVar[bool] = True
    order: ClassVar[int] = 90
    finds: ClassVar[tuple[str, ...]] = ("pii",)

    def __post_init__(self) -> None:
        for name in self.kinds:
            if name not in NAMES:
                raise ConfigError(
                    f"pii.kinds names {name!r}, which is no kind of personal data.",
                    f"use some of: {', '.join(NAMES)}; persons are for the filter names.",
                )

    def ready(self, sample: Sample) -> Look:
        return Glancing(look=self._look, clear=lambda seen: seen.impersonal)

    def _look(self, row: Row) -> Change | Drop | None:
        return redacted(row, lambda texts: [list(secrets(t, self.kinds)) for t in texts], "pii")
