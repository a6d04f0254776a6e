"""`data.curate`: training rows through the curation of the study's domain, ahead of the split."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from domainwright.core.errors import DataError
from domainwright.core.progress import Listener
from domainwright.core.records import Row, SetAside
from domainwright.curate.clean import Cleaner
from domainwright.studies.study import StudySettings

GIVEN = ("development", "test")
"""Rows that the user chose for judging: curation only says what it would do with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curation:
    """The training rows that are left, what was set aside, and what the verdict says of it."""

    train: list[Row]
    set_aside: list[SetAside] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def curated(study: StudySettings, parts: Mapping[str, list[Row]], listen: Listener) -> Curation:
    """Curate the training rows where `data.curate` is set.

    Args:
        parts: role -> rows, as they were read.

    Raises:
        DataError: no training row is left.
    """
    train = parts.get("train", [])
    if not study.data.curate or not train:
        return Curation(train=train)
    cleaner = Cleaner(study.domain, train)
    found = cleaner.cleaned(train, listen)
    if not found.rows:
        raise DataError(
            f"Curation leaves none of the {len(train):,} training rows "
            f"({_reasons(found.set_aside)}).",
            "look at the data with dw data show FILE, or leave `data.curate` out.",
        )
    notes = [
        f"Curation set {len(found.set_aside):,} of {len(train):,} training rows aside"
        f"{_in_brackets(_reasons(found.set_aside))} and changed "
        f"{_counts(found.changes.items()) or 'none'}."
    ]
    for role in GIVEN:
        rows = parts.get(role, [])
        seen = cleaner.judged(rows)
        if seen.set_aside or seen.changes:
            notes.append(
                f"It would set {len(seen.set_aside):,} of the {len(rows):,} {role} rows aside"
                f"{_in_brackets(_reasons(seen.set_aside))} and change "
                f"{_counts(seen.changes.items()) or 'none'}; they stay as they were given."
            )
    return Curation(train=found.rows, set_aside=found.set_aside, notes=tuple(notes))


def _reasons(entries: Iterable[SetAside]) -> str:
    return _counts(Counter(entry.reason for entry in entries).most_common())


def _counts(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts)


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""
