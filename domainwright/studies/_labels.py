"""The labels of a study's texts and of a head, and rows written down for one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from domainwright.core.errors import ConfigError
from domainwright.core.records import Choice, Extraction, Row
from domainwright.curate.labelled import MANY, LabelSet, label_set
from domainwright.curate.split import Split
from domainwright.curate.tagged import kinds_asked
from domainwright.maths.spans import tag_names
from domainwright.methods._head import Kind
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow, encode_rows, labelled_rows, tagged_rows
from domainwright.studies._entities import entity_notes
from domainwright.studies.study import StudySettings, read_domain
from domainwright.train.settings import TrainSettings

SHOWN = 5
"""Labels quoted in a note."""


class HeadLabels(NamedTuple):
    """What a head tells apart."""

    kind: Kind
    """Of documents ("classification") or of every word ("labelling")."""
    names: tuple[str, ...]


def labels_asked(study: StudySettings, rows: Sequence[Row]) -> LabelSet | None:
    """The labels of all files' labelled rows, and how they are asked; None: no row is labelled.

    Raises:
        DataError: only one label, or far too many.
    """
    labels = label_set(rows)
    general = read_domain(study.domain)["instruction"] if study.domain else None
    if labels and study.prompting.instruction not in (None, general):
        return replace(labels, ask="")
    return labels


def label_notes(labels: LabelSet | None, divided: Split) -> list[str]:
    """What the verdict says about labels that are rare or many, or types that nobody teaches."""
    if labels is None:
        return entity_notes(divided)
    notes = []
    learned = {_label(row) for row in divided.train}
    unknown = Counter(_label(row) for row in divided.test if _label(row) not in learned)
    if unknown:
        named = ", ".join(f"{name!r} ({n})" for name, n in sorted(unknown.items())[:SHOWN])
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        notes.append(
            f"{unknown.total()} test rows have labels that no training row has: {named}{more}. "
            "No method could learn them."
        )
    if len(labels.names) > MANY:
        notes.append(
            f"There are {len(labels.names)} labels, and the likelihood of each was read for every "
            "item; a head (train.head) reads the text alone."
        )
    return notes


def labels_of(rows: Sequence[Row], settings: TrainSettings) -> HeadLabels | None:
    """What a head is to tell apart: labels in alphabetical order, or tags; None: no head is wanted.

    Raises:
        ConfigError: rows of another kind, or with several sets of choices.
    """
    if not settings.head:
        return None
    if kinds := kinds_asked(rows):
        return HeadLabels("labelling", tag_names(kinds.names))
    sets = {tuple(sorted(r.choices)) if isinstance(r, Choice) else () for r in rows}
    if len(sets) != 1 or () in sets:
        found = "rows without choices" if () in sets else f"{len(sets)} sets of choices"
        raise ConfigError(
            f"train.head is true, and the files hold {found}.",
            "give texts with a label, tagged sentences, or multiple choice whose choices are "
            "always the same, or leave train.head out.",
        )
    return HeadLabels("classification", sets.pop())


def encoded_rows(
    base: Base, rows: Sequence[Row], settings: TrainSettings, max_tokens: int
) -> list[TrainRow]:
    """Rows as training documents: for the head where one is wanted, else for the base's own."""
    labels = labels_of(rows, settings)
    if labels is None:
        return encode_rows(base.template, rows, max_tokens)
    if labels.kind == "labelling":
        sentences = [row for row in rows if isinstance(row, Extraction)]
        return tagged_rows(base.template, sentences, labels.names, max_tokens)
    choices = [row for row in rows if isinstance(row, Choice)]
    return labelled_rows(base.template, choices, labels.names, max_tokens)


def _label(row: Row) -> str:
    return row.choices[row.answer] if isinstance(row, Choice) else ""
