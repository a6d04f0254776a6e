"""Documents that retrieval may quote: a title and a text."""

from collections.abc import Mapping
from typing import Any, ClassVar

from domainwright.core.records import Document
from domainwright.curate._cells import column, optional, pick, text
from domainwright.curate._place import Place, origin
from domainwright.curate.readers import READERS, Columns

_MOST_PAGES = 10**9


@READERS.register
class Documents:
    """{"title": "…", "text": "…"}; without a title the file's name is the title.

    A section and a page are kept where the record has them.
    """

    # Never found by itself: the same file can be text to learn from. The caller says so.
    priority = 0
    columns: ClassVar[Columns] = {
        "title": ("title", "name", "heading", "headline"),
        "section": ("section", "chapter"),
        "page": ("page", "page_number"),
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
            section=optional(record, self.columns["section"]),
            page=_page(pick(record, self.columns["page"])),
        )


def _page(value: Any) -> int | None:
    """A whole number from 1; anything else names no page."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
        value = int(value)
    # pandas makes whole numbers floats where a cell is empty.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 < value < _MOST_PAGES else None
