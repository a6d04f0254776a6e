"""A question and its answer in two columns, under any of their usual names."""

from collections.abc import Mapping
from typing import Any, ClassVar

from domainwright.core.records import Chat, Message
from domainwright.curate._cells import column, optional, pick, text
from domainwright.curate._history import before
from domainwright.curate._place import Place, origin
from domainwright.curate._turns import conversation, in_order, messages_of, packed_turns
from domainwright.curate.readers import READERS, Columns


@READERS.register
class PromptCompletion:
    """{"question": "…", "answer": "…"}; also context, system and history."""

    priority = 30
    columns: ClassVar[Columns] = {
        "question": ("question", "prompt", "query", "instruction", "input", "user"),
        "answer": (
            *("answer", "completion", "response", "output", "target", "assistant", "reply"),
        ),
        "context": ("context",),
        "system": ("system", "system_prompt"),
        "history": ("history",),
    }
    needs = ("question", "answer")

    def matches(self, columns: set[str]) -> bool:
        return all(column(columns, self.columns[role]) for role in self.needs)

    def row(self, record: Mapping[str, Any], place: Place) -> Chat:
        prompt, reply = (packed_turns(pick(record, self.columns[role])) for role in self.needs)
        if prompt is not None and reply is not None:
            whole = [*messages_of(prompt), *messages_of(reply)]
            turns = [{"role": m.role, "content": m.content} for m in whole]
            return Chat(**origin(record, place), messages=conversation(turns, place))
        question = text(record, self.columns["question"], "empty_question")
        if context := optional(record, self.columns["context"]):
            question = f"{context}\n\n{question}"
        answer = text(record, self.columns["answer"], "empty_answer")
        messages = (
            *before(record, self.columns["system"], self.columns["history"]),
            Message("user", question),
            Message("assistant", answer),
        )
        return Chat(**origin(record, place), messages=in_order(messages))
