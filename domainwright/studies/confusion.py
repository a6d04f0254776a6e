"""Which label was answered where which was true: for rows whose answers are a few labels.

Labels are the references of the test items, where there are 2 to 20 of them and at least twice as
many items. A written answer is a label where it is the same up to case, spaces and a full stop.
"""

from collections import Counter
from collections.abc import Collection, Sequence

from domainwright.core.errors import ConfigError
from domainwright.core.records import Chat, Choice, Extraction, Row
from domainwright.evaluate.records import Item
from domainwright.studies.prices import PriceSettings
from domainwright.studies.records import Answered, StrategyResult

MOST = 20
OTHER = "other"
"""An answer that is no label."""


def labels_in(references: Sequence[str]) -> list[str]:
    """The labels in alphabetical order; none where the references are no labels."""
    found = sorted(set(references) - {""})
    return found if 2 <= len(found) <= min(MOST, len(references) // 2) else []


def answered(items: Sequence[Item]) -> list[Answered]:
    """The answers of one strategy, counted by group."""
    # Lists of entities are no labels, however few there are.
    listed = any(x.entities for x in items)
    labels = [] if listed else labels_in([x.reference for x in items])
    known = {_plain(label): label for label in labels}
    counts = Counter(
        (x.group, x.reference, known.get(_plain(x.reply), OTHER)) for x in items if labels
    )
    return [
        Answered(group=group, true=true, answered=reply, items=n)
        for (group, true, reply), n in counts.items()
    ]


def check_labels(prices: PriceSettings, rows: Sequence[Row]) -> None:
    """Refuse costs of errors that these test rows cannot make, before anything is asked.

    Raises:
        ConfigError: the rows have no labels, or not these.
    """
    references = [
        r.choices[r.answer] if isinstance(r, Choice) else r.answer if isinstance(r, Chat) else ""
        for r in rows
        if not isinstance(r, Extraction)
    ]
    _check(prices, labels_in(references))


def check_results(prices: PriceSettings, results: Sequence[StrategyResult]) -> None:
    """The same for strategies that have answered.

    Raises:
        ConfigError: as `check_labels`.
    """
    _check(prices, {x.true for r in results for x in r.answered})


def _check(prices: PriceSettings, labels: Collection[str]) -> None:
    if not prices.errors:
        return
    if not labels:
        raise ConfigError(
            "prices.errors has costs for labels, and the answers of the test items are no labels: "
            f"there must be 2 to {MOST} of them, each for two items or more.",
            "give `right` and `wrong` instead.",
        )
    named = [*prices.errors, *(x for row in prices.errors.values() for x in row if x != OTHER)]
    strange = next((x for x in named if x not in labels), None)
    if strange is not None:
        raise ConfigError(
            f"prices.errors names {strange!r}, which is no label of the test items.",
            f"use: {', '.join(sorted(labels))}.",
        )


def _plain(text: str) -> str:
    return text.strip().rstrip(".").casefold()
