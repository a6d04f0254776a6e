"""Whether a study's labels count alike: where one is the answer to nearly every row.

Of a hundred payments six are fraud. Who answers "genuine" always is right in 94 % of them and
finds none: accuracy rewards what nobody wants. So where one label has most of the rows, a study
that leaves `evaluate.score` open is decided by balanced accuracy, methods read the labels equally
often (`train.order`), and a state is chosen by a development loss in which they weigh the same.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from domainwright.core.errors import ConfigError
from domainwright.core.records import Choice, Row
from domainwright.evaluate.tasks.choices import BALANCED
from domainwright.maths.balanced import weights
from domainwright.models.forms import TrainRow
from domainwright.studies.study import StudySettings

R = TypeVar("R", bound=Row)
LOPSIDED = 0.8
"""Share of the commonest label from which labels count alike."""
FEWEST_TESTED = 5
"""Test rows that the rarest label must have: with fewer its part of the score would be luck."""


def counted_alike(study: StudySettings, parts: Mapping[str, Sequence[Row]]) -> bool:
    """Whether labels count alike, and not rows.

    Args:
        parts: "train", "development" and "test" -> rows, before they are divided.

    Raises:
        ConfigError: the score asked for needs labels, and the rows have none.
    """
    wanted = study.evaluate.score
    if wanted not in ("auto", BALANCED):
        return False
    rows = [row for part in parts.values() for row in part]
    labelled = [row for row in rows if isinstance(row, Choice)]
    same = len({tuple(sorted(row.choices)) for row in labelled}) == 1
    if not labelled or len(labelled) < len(rows) or not same:
        if wanted == "auto":
            return False
        raise ConfigError(
            f"evaluate.score is {BALANCED}, and the files hold no rows of a few labels.",
            "give texts with a label, or choices that are always the same; or leave "
            "evaluate.score out.",
        )
    return wanted == BALANCED or _lopsided(study, parts)


def label(row: Choice) -> str:
    return row.choices[row.answer]


def labels_in(rows: Sequence[Row]) -> dict[str, str]:
    """Id -> label."""
    return {row.id: label(row) for row in rows if isinstance(row, Choice)}


def by_turns(rows: Sequence[R]) -> list[R]:
    """Rows of every label in turn, each label's in their order: the first few hold the rare ones.

    >>> rows = [Choice(id=i, group="", file="", line=1, question="?", choices=("a", "b"), answer=n)
    ...         for i, n in [("1", 0), ("2", 0), ("3", 0), ("4", 1)]]
    >>> [row.id for row in by_turns(rows)]
    ['1', '4', '2', '3']
    """
    labels, turns, seen = labels_in(rows), dict[str, int](), Counter[str]()
    for row in rows:
        turns[row.id] = seen[labels[row.id]]
        seen[labels[row.id]] += 1
    return sorted(rows, key=lambda row: turns[row.id])


def shares_in(rows: Sequence[Row]) -> dict[str, float]:
    """Label -> its share of the rows."""
    found = Counter(labels_in(rows).values())
    return {name: found[name] / found.total() for name in sorted(found)}


def alike_notes(rows: Sequence[Row]) -> list[str]:
    """What the verdict says where labels count alike."""
    ((common, count),) = Counter(labels_in(rows).values()).most_common(1)
    return [
        f"{100 * count / len(rows):.0f} % of the rows are “{common}”: every label counts alike "
        "(balanced accuracy), and training reads them equally often. Set evaluate.score to "
        "accuracy_norm where every row should count alike."
    ]


def weights_of(rows: Sequence[Row], score: str) -> dict[str, float]:
    """Right answer -> how much its test items count; empty where all count alike."""
    if score != BALANCED:
        return {}
    return weights(list(labels_in(rows).values()))


def read_alike(documents: Sequence[TrainRow], rows: Sequence[Row]) -> list[TrainRow]:
    """Training documents with the label by which they share an epoch."""
    labels = labels_in(rows)
    return [replace(document, label=labels.get(document.id, "")) for document in documents]


def equal_shares(documents: Sequence[TrainRow]) -> dict[str, float]:
    """Label -> share of an epoch."""
    names = sorted({document.label for document in documents if document.label})
    return dict.fromkeys(names, 1 / len(names))


def weighed_alike(documents: Sequence[TrainRow], rows: Sequence[Row]) -> list[TrainRow]:
    """Development documents with their label's weight; general ones have none."""
    labels = labels_in(rows)
    weight = weights([labels[document.id] for document in documents if document.id in labels])
    return [
        replace(document, weight=weight.get(labels.get(document.id, ""), 1.0))
        for document in documents
    ]


def _lopsided(study: StudySettings, parts: Mapping[str, Sequence[Row]]) -> bool:
    everyone = Counter(labels_in([row for part in parts.values() for row in part]).values())
    if max(everyone.values()) < LOPSIDED * everyone.total():
        return False
    if given := parts.get("test"):
        tested = Counter(labels_in(given).values())
        return all(tested[name] >= FEWEST_TESTED for name in everyone)
    return min(everyone.values()) * study.data.test_share >= FEWEST_TESTED
