"""How often each type of entity was found, over all test items together."""

from collections.abc import Sequence
from dataclasses import dataclass

from domainwright.evaluate.records import Item
from domainwright.maths.spans import Counts, summed


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityScore:
    """Entities of one type on all test items together."""

    kind: str | None
    """None: of all types (micro)."""
    right: int
    """Type and both ends are the true ones."""
    given: int
    true: int
    precision: float
    recall: float
    f1: float


def entity_scores(items: Sequence[Item]) -> list[EntityScore]:
    """All entities together first, then type by type; nothing where the items have none.

    Of several training seeds it is the first.
    """
    found: dict[str, list[tuple[int, int, int]]] = {}
    for item in items:
        for kind, counts in item.entities.items():
            found.setdefault(kind, []).append(counts)
    if not found:
        return []
    by_kind = {kind: summed(found[kind]) for kind in sorted(found)}
    return [_scored(None, summed(by_kind.values())), *(_scored(k, n) for k, n in by_kind.items())]


def _scored(kind: str | None, counts: Counts) -> EntityScore:
    return EntityScore(
        kind=kind,
        right=counts.right,
        given=counts.given,
        true=counts.true,
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
    )


def told(scores: Sequence[EntityScore]) -> str:
    """All entities and each type in words; "" where there are none."""
    if not scores:
        return ""
    every, *kinds = scores
    return (
        f"micro-F1 {every.f1:.2f} (precision {every.precision:.2f}, recall {every.recall:.2f}) "
        f"over {every.true} entities: "
        + ", ".join(f"{x.kind} {x.f1:.2f} of {x.true}" for x in kinds)
    )
