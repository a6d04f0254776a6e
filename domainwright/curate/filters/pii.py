"""Put placeholders where a person or an account is identified: [EMAIL_1], [PHONE_2].

The same value has the same placeholder everywhere in a row. What stood there is given to
the caller and never written into the dataset. Names are not found: that needs a model.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.errors import ConfigError
from domainwright.core.records import Row
from domainwright.curate._fields import mapped
from domainwright.curate._personal import NAMES, secrets
from domainwright.curate.filters import FILTERS, Change, Look, Sample


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
                    f"use some of: {', '.join(NAMES)}.",
                )

    def ready(self, sample: Sample) -> Look:
        return self._look

    def _look(self, row: Row) -> Change | None:
        placeholders: dict[tuple[str, str], str] = {}
        counts, places = Counter[str](), 0

        def change(part: str, text: str) -> str:
            nonlocal places
            done, end = list[str](), 0
            for found in secrets(text, self.kinds):
                # "212 555 0142" and "212-555-0142" are one number.
                same = (found.kind, re.sub(r"[\s().-]", "", found.text).lower())
                if same not in placeholders:
                    counts[found.kind] += 1
                    placeholders[same] = f"[{found.kind}_{counts[found.kind]}]"
                    stood[placeholders[same]] = found.text
                done += [text[end : found.start], placeholders[same]]
                end, places = found.end, places + 1
            return "".join([*done, text[end:]])

        stood: dict[str, str] = {}
        better = mapped(row, change)
        if better is row:
            return None
        return Change(better, "pii", places, kinds=dict(counts), secrets=stood)
