"""The labels of a head, and rows written down for one."""

from collections.abc import Sequence

from domainwright.core.errors import ConfigError
from domainwright.core.records import Choice, Row
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow, encode_rows, labelled_rows
from domainwright.train.settings import TrainSettings


def labels_of(rows: Sequence[Row], settings: TrainSettings) -> tuple[str, ...] | None:
    """What a head is to tell apart, in alphabetical order; None where none is wanted.

    Raises:
        ConfigError: rows of another kind, or with several sets of choices.
    """
    if not settings.head:
        return None
    sets = {tuple(sorted(r.choices)) if isinstance(r, Choice) else () for r in rows}
    if len(sets) != 1 or () in sets:
        found = "rows without choices" if () in sets else f"{len(sets)} sets of choices"
        raise ConfigError(
            f"train.head is true, and the files hold {found}.",
            "give multiple choice whose choices are always the same, or leave train.head out.",
        )
    return sets.pop()


def encoded_rows(
    base: Base, rows: Sequence[Row], settings: TrainSettings, max_tokens: int
) -> list[TrainRow]:
    """Rows as training documents: for the head where one is wanted, else for the base's own."""
    labels = labels_of(rows, settings)
    if labels is None:
        return encode_rows(base.template, rows, max_tokens)
    choices = [row for row in rows if isinstance(row, Choice)]
    return labelled_rows(base.template, choices, labels, max_tokens)
