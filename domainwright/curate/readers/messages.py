"""Conversations as OpenAI and Hugging Face write them: turns with role and content."""

from collections.abc import Mapping
from typing import Any, ClassVar

from domainwright.core.records import Chat
from domainwright.curate._cells import Unusable, column
from domainwright.curate._place import Place, origin
from domainwright.curate._turns import CHAT_COLUMNS, conversation, has_turns
from domainwright.curate.readers import READERS, Columns


@READERS.register
class Messages:
    """{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}]}"""

    priority = 50
    columns: ClassVar[Columns] = {"messages": CHAT_COLUMNS}
    needs = ("messages",)

    def matches(self, columns: set[str]) -> bool:
        # A column that holds no turns is matched too: its records are then set aside
        # with the reason instead of looking like no format at all.
        found = column(columns, CHAT_COLUMNS)
        return found is not None and not has_turns(columns, (found,), "from")

    def row(self, record: Mapping[str, Any], place: Place) -> Chat:
        found = column(record, CHAT_COLUMNS)
        if found is None:
            raise Unusable("missing_column", f"none of the columns {', '.join(CHAT_COLUMNS)}")
        return Chat(**origin(record, place), messages=conversation(record[found], place))
