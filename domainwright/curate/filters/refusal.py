"""Drop answers that only refuse, or say what they are: "As an AI language model, I cannot".

Off unless asked for: refusals are what safety data teaches.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Chat, Row
from domainwright.curate.filters import FILTERS, Drop, Look, Sample

_REFUSES = re.compile(
    r"^\W*(?:(?:i['’]?m|i am) (?:very |so )?(?:sorry|afraid)|sorry|unfortunately"
    r"|i apologi[sz]e)?\W*"
    r"(?:but )?(?:as an? (?:ai|artificial|language|large)\b"
    r"|i (?:cannot|can['’]?t|am (?:not able|unable)|['’]?m (?:not able|unable)|won['’]?t)\b"
    r".{0,30}\b(?:help|assist|answer|provide|fulfil+|comply|do that|create|write|discuss))",
    re.I,
)


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Answers that refuse: dropped."""

    default: ClassVar[bool] = False
    order: ClassVar[int] = 64
    finds: ClassVar[tuple[str, ...]] = ("refusal",)

    def ready(self, sample: Sample) -> Look:
        return _look


def _look(row: Row) -> Drop | None:
    found = _REFUSES.match(row.answer) if isinstance(row, Chat) else None
    return Drop("refusal", f"it begins {found[0][:50]!r}") if found else None
