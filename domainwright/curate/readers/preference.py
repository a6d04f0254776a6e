"""Two replies to one prompt, the preferred one named: rows for DPO and its family."""

from collections.abc import Mapping
from typing import Any, ClassVar

from domainwright.core.records import Message, Preference
from domainwright.curate._cells import Unusable, as_text, column, pick, text
from domainwright.curate._history import before
from domainwright.curate._place import Place, origin
from domainwright.curate._turns import messages_of, packed_turns, prompt_in_order
from domainwright.curate.readers import READERS, Columns


@READERS.register
class Preferences:
    """{"prompt": "…", "chosen": "…", "rejected": "…"}, as text or as lists of turns.

    Without a prompt, chosen and rejected are whole conversations and the prompt is
    their common start.
    """

    priority = 80
    columns: ClassVar[Columns] = {
        "question": ("prompt", "question", "query", "instruction", "input"),
        "chosen": ("chosen", "preferred"),
        "rejected": ("rejected", "dispreferred"),
        "system": ("system", "system_prompt"),
        "history": ("history",),
    }
    needs = ("chosen", "rejected")

    def matches(self, columns: set[str]) -> bool:
        return all(column(columns, self.columns[role]) for role in self.needs)

    def row(self, record: Mapping[str, Any], place: Place) -> Preference:
        start, chosen = self._reply(record, "chosen")
        other_start, rejected = self._reply(record, "rejected")
        if start != other_start:
            raise Unusable("prompts_differ", "chosen and rejected do not begin alike")
        if " ".join(chosen.split()) == " ".join(rejected.split()):
            raise Unusable("identical_pair", "chosen and rejected are the same reply")
        prompt = prompt_in_order(start or self._prompt(record))
        return Preference(**origin(record, place), prompt=prompt, chosen=chosen, rejected=rejected)

    def _reply(self, record: Mapping[str, Any], role: str) -> tuple[tuple[Message, ...], str]:
        """(turns before the reply, the reply)."""
        value = packed_turns(pick(record, self.columns[role]))
        if value is None:
            return (), text(record, self.columns[role], "empty_answer")
        turns = messages_of(value)
        if not turns or turns[-1].role != "assistant":
            raise Unusable("no_assistant_turn", f"{role} does not end with the assistant")
        return turns[:-1], as_text(turns[-1].content, "empty_answer", role)

    def _prompt(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        earlier = before(record, self.columns["system"], self.columns["history"])
        value = packed_turns(pick(record, self.columns["question"]))
        if value is not None:
            return (*earlier, *messages_of(value))
        question = text(record, self.columns["question"], "empty_question")
        return (*earlier, Message("user", question))
