"""Plain text of the domain, one piece per record."""

from collections.abc import Mapping
from typing import Any, ClassVar

from domainwright.core.records import Text
from domainwright.curate._cells import column, text
from domainwright.curate._place import Place, origin
from domainwright.curate.readers import READERS, Columns

TEXT_COLUMNS = ("text", "content", "body", "document", "passage")


@READERS.register
class PlainText:
    """{"text": "…"}"""

    priority = 10
    columns: ClassVar[Columns] = {"text": TEXT_COLUMNS}
    needs = ("text",)

    def matches(self, columns: set[str]) -> bool:
        return column(columns, TEXT_COLUMNS) is not None

    def row(self, record: Mapping[str, Any], place: Place) -> Text:
        return Text(**origin(record, place), text=text(record, TEXT_COLUMNS, "empty_text"))
