"""Documents that retrieval may quote: a title and a text."""

from collections.abc import Mapping
from typing import Any, ClassVar

from domainwright.core.records import Document
from domainwright.curate._cells import column, optional, text
from domainwright.curate._place import Place, origin
from domainwright.curate.readers import READERS, Columns


@READERS.register
class Documents:
    """{"title": "…", "text": "…"}; without a title the file's name is the title."""

    # Never found by itself: the same file can be text to learn from. The caller says so.
    priority = 0
    columns: ClassVar[Columns] = {
        "title": ("title", "name", "heading", "headline"),
        "text": ("text", "content", "body", "document", "passage"),
    }
    needs = ("text",)

    def matches(self, columns: set[str]) -> bool:
        return column(columns, self.columns["text"]) is not None

    def row(self, record: Mapping[str, Any], place: Place) -> Document:
        return Document(
            **origin(record, place),
            title=optional(record, self.columns["title"]) or place.prefix,
            text=text(record, self.columns["text"], "empty_text"),
        )
