"""Instructions as Alpaca and Dolly write them: a task, perhaps its input, the output."""

from collections.abc import Mapping
from typing import Any, ClassVar

from domainwright.core.records import Chat, Message
from domainwright.curate._cells import column, optional, text
from domainwright.curate._history import before
from domainwright.curate._place import Place, origin
from domainwright.curate._turns import in_order
from domainwright.curate.readers import READERS, Columns


@READERS.register
class Alpaca:
    """{"instruction": "…", "input": "…", "output": "…"}; also system and history."""

    priority = 40
    columns: ClassVar[Columns] = {
        "instruction": ("instruction",),
        "input": ("input", "context"),
        "output": ("output", "response", "completion", "answer"),
        "system": ("system", "system_prompt"),
        "history": ("history",),
    }
    needs = ("instruction", "output")

    def matches(self, columns: set[str]) -> bool:
        return all(column(columns, self.columns[role]) for role in self.needs)

    def row(self, record: Mapping[str, Any], place: Place) -> Chat:
        question = text(record, self.columns["instruction"], "empty_question")
        if more := optional(record, self.columns["input"]):
            question = f"{question}\n\n{more}"
        answer = text(record, self.columns["output"], "empty_answer")
        messages = (
            *before(record, self.columns["system"], self.columns["history"]),
            Message("user", question),
            Message("assistant", answer),
        )
        return Chat(**origin(record, place), messages=in_order(messages))
