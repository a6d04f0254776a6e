"""Tagged sentences as questions: once all files are read, each is asked for the types of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from domainwright.core.errors import DataError
from domainwright.core.records import Extraction, Message, Row, Tagged
from domainwright.maths.listed import NONE, listed
from domainwright.maths.spans import spans_of
from domainwright.maths.words import pieces

MOST = 100
"""More types are refused: a prompt names them all."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Kinds:
    """What the rows of a study are searched for."""

    names: tuple[str, ...]
    """In alphabetical order."""

    @property
    def ask(self) -> str:
        """What a prompt says."""
        *most, last = self.names or ("entity",)
        every = f"{', '.join(most)} and {last}" if most else last
        return (
            f"List every {every} in the text, each on a line of its own as TYPE: words, in the "
            f"order of the text. Write {NONE} where there is none."
        )

    def question(self, text: str) -> Extraction:
        """A text of which nothing is known, asked."""
        words = tuple(text[start:end] for start, end in pieces(text)) or (text,)
        place: dict[str, Any] = {"id": "chat", "group": "chat", "file": "", "line": 0}
        return _asked(Tagged(**place, words=words, tags=("O",) * len(words)), self)


def kinds_of(rows: Sequence[Row], *, fewest: int = 1) -> Kinds | None:
    """The types of entities in tagged rows; None where no row is tagged.

    Raises:
        DataError: fewer than `fewest`, or more than `MOST`.
    """
    tagged = [row for row in rows if isinstance(row, Tagged)]
    if not tagged:
        return None
    names = tuple(sorted({span.kind for row in tagged for span in spans_of(row.tags)}))
    if len(names) < fewest:
        raise DataError(
            f"None of the {len(tagged):,} tagged rows has an entity.",
            "give rows with tags such as B-DRUG, or set `format: text` to learn the texts alone.",
        )
    if len(names) > MOST:
        shown = ", ".join(map(repr, names[:_SHOWN]))
        raise DataError(
            f"There are {len(names):,} types of entities ({shown}, …), and at most {MOST} can be "
            "asked for.",
            "give rows with coarser types.",
        )
    return Kinds(names)


def kinds_asked(rows: Sequence[Row]) -> Kinds | None:
    """The types that rows made by `as_extractions` are asked for; None where there are none."""
    found = {row.kinds if isinstance(row, Extraction) else () for row in rows}
    names = found.pop() if len(found) == 1 else ()
    return Kinds(names) if names else None


def as_extractions(rows: Sequence[Row], kinds: Kinds | None) -> list[Row]:
    """Tagged rows as questions for these types; others as they are.

    Raises:
        DataError: a row has another type.
    """
    if kinds is None:
        return list(rows)
    return [_checked(row, kinds) if isinstance(row, Tagged) else row for row in rows]


def _checked(row: Tagged, kinds: Kinds) -> Extraction:
    strange = sorted({span.kind for span in spans_of(row.tags)} - set(kinds.names))
    if strange:
        raise DataError(
            f"{row.file}, line {row.line}, has an entity of the type {strange[0]!r}, and the run "
            f"knows {', '.join(kinds.names)}.",
            "correct the tag or leave the row out; a new type needs a study on rows with it.",
        )
    return _asked(row, kinds)


def _asked(row: Tagged, kinds: Kinds) -> Extraction:
    answer = listed(row.words, spans_of(row.tags))
    return Extraction(
        **{name: getattr(row, name) for name in Row.__slots__},
        messages=(Message("user", row.text), Message("assistant", answer)),
        words=row.words,
        tags=row.tags,
        kinds=kinds.names,
        ask=kinds.ask,
    )
