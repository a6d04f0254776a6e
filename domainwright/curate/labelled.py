"""Labelled texts as multiple choice: once all files are read, every row gets the labels of all.

A prompt does not list the labels: the likelihood of each is read behind it, whole and not as a
letter, so an alphabet is no limit. Listed ahead of the text they took most of what a small base can
tell from it (LOG.md, 2026-11-22).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from domainwright.core.errors import DataError
from domainwright.core.records import Choice, Labelled, Row, Tagged, Text

ASK = "Which label fits this text?"
MANY = 50
"""More labels than this cost as much to read as a short text, and must stand twice on average."""
MOST = 200
"""More labels are refused: they would take nearly all of the time."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class LabelSet:
    """What the rows of a study are told apart by."""

    names: tuple[str, ...]
    """In alphabetical order."""
    ask: str | None
    """What is asked about each text, as `Choice.ask` has it."""


def label_set(rows: Sequence[Row], *, fewest: int = 2) -> LabelSet | None:
    """The labels of labelled rows; None where no row is labelled.

    Raises:
        DataError: fewer than `fewest`, or so many that they name rows.
    """
    labelled = [row for row in rows if isinstance(row, Labelled)]
    if not labelled:
        return None
    names = tuple(sorted({row.label for row in labelled}))
    if len(names) < fewest:
        raise DataError(
            f"All {len(labelled):,} labelled rows have the label {names[0]!r}.",
            "give rows with at least two labels, or set `format: text` to learn the texts alone.",
        )
    if len(names) > MOST or len(names) > max(MANY, len(labelled) / 2):
        shown = ", ".join(map(repr, names[:_SHOWN]))
        raise DataError(
            f"There are {len(names):,} labels in {len(labelled):,} rows ({shown}, …; first in "
            f"{labelled[0].file}), and a label must tell kinds of texts apart, at most {MOST}.",
            "set `format: text` (--format text) to learn the texts alone, or name a column of few "
            "labels with `columns: {label: COLUMN}`.",
        )
    return LabelSet(names, ASK)


def label_set_of(rows: Sequence[Row]) -> LabelSet | None:
    """The labels of rows that `as_choices` made; None where choices differ or there are none."""
    found = {
        (row.choices, row.ask) if isinstance(row, Choice) and row.delimiter is None else ((), None)
        for row in rows
    }
    names, ask = found.pop() if len(found) == 1 else ((), None)
    return LabelSet(names, ask) if names else None


def as_choices(rows: Sequence[Row], labels: LabelSet | None) -> list[Row]:
    """Labelled rows as questions with the same choices; others as they are.

    Args:
        labels: of all rows that belong together. None: there are none, and no row is changed.

    Raises:
        DataError: a row's label is not among them.
    """
    if labels is None:
        return list(rows)
    return [_choice(row, labels) if isinstance(row, Labelled) else row for row in rows]


def as_texts(rows: Sequence[Row]) -> list[Row]:
    """Labelled and tagged rows as texts, where only the texts are wanted; others as they are."""
    return [
        Text(**_place(row), text=row.text) if isinstance(row, (Labelled, Tagged)) else row
        for row in rows
    ]


def _choice(row: Labelled, labels: LabelSet) -> Choice:
    if row.label not in labels.names:
        known = ", ".join(labels.names[:MANY]) + (", …" if len(labels.names) > MANY else "")
        raise DataError(
            f"{row.file}, line {row.line}, has the label {row.label!r}, and the run knows {known}.",
            "correct the label or leave the row out; a new label needs a study on rows with it.",
        )
    return Choice(
        **_place(row),
        question=row.text,
        choices=labels.names,
        answer=labels.names.index(row.label),
        ask=labels.ask,
    )


def _place(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Row.__slots__}
