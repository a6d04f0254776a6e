"""What the records of a file mean. One file per data format.

A reader declares its columns by role, each role with the names users give it, and
turns one record into one row. It raises `Unusable` with a reason instead of guessing.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from domainwright.core.records import Row
from domainwright.core.registry import Folder
from domainwright.curate._place import Place

Columns = Mapping[str, tuple[str, ...]]


class Reader(Protocol):
    """What every file in this folder registers (a class without arguments)."""

    @property
    def priority(self) -> int:
        """When several readers match a record, the highest priority reads it."""

    @property
    def columns(self) -> Columns:
        """Role -> names of a column that can play it, in order of preference."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Roles without which no record can be read. Shown in messages."""

    def matches(self, columns: set[str]) -> bool:
        """True when records with these columns are of this format.

        Beside its name, a column that holds a list is listed as "tags[]" or, with nothing in it,
        "tags[]:empty"; one that holds turns also as "messages[].role", one of lists as
        "entities[][]"; and one that holds true or false as "label:bool".
        """

    def row(self, record: Mapping[str, Any], place: Place) -> Row:
        """One row. Column names of `record` are lower case.

        Raises:
            Unusable: the record cannot be used; reason and detail say why.
        """


READERS: Folder[type[Reader]] = Folder("domainwright.curate.readers", "data format")
