"""Conversations as ShareGPT writes them: turns with from and value."""

from collections.abc import Mapping
from typing import Any, ClassVar

from domainwright.core.records import Chat, Message
from domainwright.curate._cells import Unusable, column, optional
from domainwright.curate._place import Place, origin
from domainwright.curate._turns import CHAT_COLUMNS, conversation, has_turns
from domainwright.curate.readers import READERS, Columns


@READERS.register
class ShareGpt:
    """{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", …}]}"""

    priority = 55
    columns: ClassVar[Columns] = {
        "messages": ("conversations", *(name for name in CHAT_COLUMNS if name != "conversations")),
        "system": ("system", "system_prompt"),
    }
    needs = ("messages",)

    def matches(self, columns: set[str]) -> bool:
        return has_turns(columns, self.columns["messages"], "from")

    def row(self, record: Mapping[str, Any], place: Place) -> Chat:
        names = self.columns["messages"]
        found = column(record, names)
        if found is None:
            raise Unusable("missing_column", f"none of the columns {', '.join(names)}")
        messages = conversation(record[found], place)
        system = optional(record, self.columns["system"])
        if system and messages[0].role != "system":
            messages = (Message("system", system), *messages)
        return Chat(**origin(record, place), messages=messages)
