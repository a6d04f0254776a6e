"""Drop rows of which a repair left nothing, and answers that only hold a place: "N/A"."""

from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Chat, Preference, Rated, Row
from domainwright.curate._fields import learnt, parts
from domainwright.curate._glance import Glancing
from domainwright.curate._placeholders import PLACEHOLDERS, RARE_SHARE
from domainwright.curate.filters import FILTERS, Drop, Look, Sample

_LONGEST = max(map(len, PLACEHOLDERS))
_OPTIONAL = ("system", "context", "title", "section")


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Empty:
    """Nothing in it after the repairs, or a placeholder for an answer: dropped."""

    default: ClassVar[bool] = True
    order: ClassVar[int] = 40
    finds: ClassVar[tuple[str, ...]] = (
        "empty_question",
        "empty_answer",
        "empty_text",
        "empty_choice",
    )

    def ready(self, sample: Sample) -> Look:
        answers = [text for row in sample.rows if isinstance(row, Chat) for text in learnt(row)]
        gaps = sum(_gap(text) for text in answers)
        # Where "N/A" is frequent it is a label that the file teaches.
        rare = gaps <= RARE_SHARE * len(answers)

        def look(row: Row) -> Drop | None:
            if rare and isinstance(row, (Chat, Rated, Preference)):
                for text in learnt(row):
                    if _gap(text):
                        return Drop(
                            "empty_answer", f"the answer is the placeholder {text.strip()!r}"
                        )
            return _look(row)

        return Glancing(look=look, clear=lambda seen: seen.worded & seen.longer(_LONGEST))


def _gap(text: str) -> bool:
    return text.strip().lower() in PLACEHOLDERS


def _look(row: Row) -> Drop | None:
    for part, text in parts(row):
        if part not in _OPTIONAL and not any(char.isalnum() for char in text):
            # "+" and "?" are answers; white space is none.
            if text.strip() and part in ("answer", "choice"):
                continue
            return Drop(f"empty_{part}", f"the {part} holds no word")
    return None
