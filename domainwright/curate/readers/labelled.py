"""A text and its label: sentiment, intent, kind of clause. Or two texts: does one follow?"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from domainwright.core.records import Labelled
from domainwright.curate._cells import Unusable, as_text, column, kind, text
from domainwright.curate._place import Place, origin
from domainwright.curate.readers import READERS, Columns

_NUMBERED = ("sentence1", "sentence_1", "sentence_a", "text1", "text_1", "text_a", "question1")
_PAIRS = {
    "premise": ("hypothesis",),
    "claim": ("evidence",),
    **{name: (name[:-1] + ("b" if name[-1] == "a" else "2"),) for name in _NUMBERED},
    **dict.fromkeys(("passage", "context", "document", "sentence", "text"), ("question", "query")),
}
"""First of two texts -> what the second may be called."""


@READERS.register
class LabelledTexts:
    """{"text": "…", "label": "positive"}; a number is kept as its text, "0".

    A column with the labels in words wins over one with their numbers. Two texts that belong
    together, {"premise": "…", "hypothesis": "…", "label": "…"}, become one with their names:
    "Premise: …\\nHypothesis: …".
    """

    priority = 20
    columns: ClassVar[Columns] = {
        "text": (
            *("text", "sentence", "content", "body", "document", "passage", "clause", "note"),
            *("comment", "review", "tweet", "headline", "utterance", "abstract", "message"),
            *("description", "narrative", "complaint", "ticket", "email", "post"),
            *("premise", "claim", *_NUMBERED, "context", "question", "query"),
        ),
        "second": tuple(sorted({name for names in _PAIRS.values() for name in names})),
        "label": (
            *("label_text", "label_name", "label", "labels", "sentiment", "intent", "class"),
            *("class_name", "clause_type", "emotion", "polarity", "category"),
        ),
    }
    needs = ("text", "label")

    def matches(self, columns: set[str]) -> bool:
        return all(column(columns, self.columns[role]) for role in self.needs)

    def row(self, record: Mapping[str, Any], place: Place) -> Labelled:
        own = text(record, self.columns["text"], "empty_text")
        first = column(record, self.columns["text"]) or ""
        second = column(record, ("second", *_PAIRS.get(first, ())))
        if second:
            other = text(record, (second,), "empty_text")
            own = f"{_heading(first)}: {own}\n{_heading(second)}: {other}"
        return Labelled(**origin(record, place), text=own, label=_label(record, self.columns))


def _heading(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _label(record: Mapping[str, Any], columns: Columns) -> str:
    name = column(record, columns["label"])
    if name is None:
        raise Unusable("missing_column", f"none of the columns {', '.join(columns['label'])}")
    value = record[name]
    if isinstance(value, list):
        if len(value) > 1:
            raise Unusable("several_labels", f"{name} holds {len(value)} labels; a row has one")
        value = value[0] if value else None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isnan(value):
        # pandas makes whole numbers floats where a cell is empty.
        if not value.is_integer():
            raise Unusable("wrong_type", f"{name} is {kind(value)}, a measure and no label")
        value = int(value)
    return as_text(value, "empty_label", name).strip()
