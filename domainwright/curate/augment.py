"""More rows out of few: made by one of `augmentation/`, then checked, each drop with its reason.

made = kept + set aside
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from domainwright.core.config import from_mapping
from domainwright.core.errors import ConfigError
from domainwright.core.records import Extraction, Row, SetAside
from domainwright.curate.augmentation import AUGMENTATIONS, Augmentation, Made, Tools
from domainwright.curate.validity import Against, check
from domainwright.curate.writer_settings import WriterSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSettings:
    """One way to make rows, and how many."""

    method: str
    """eda, paraphrase, questions, self_instruct or evol_instruct."""
    copies: int = 1
    """Rows to make of every training row, or of every passage of the documents."""
    synonyms: str | None = None
    """File with a set of synonyms a line (`begin, start`). None: a short list of everyday words."""
    writer: WriterSettings | None = None
    """Of the methods for which a model writes. None: the study's own base."""
    ablation: bool = False
    """Also train the best method without any made row, to say whether they helped."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the method: {alpha: 0.05}."""

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ConfigError(f"augment.copies is {self.copies}.", "give a whole number from 1.")
        self.augmentation()
        if self.writer and "writer" not in self.needs:
            raise ConfigError(
                f"augment.writer is set, and {self.method} asks no model.",
                "leave `writer` out, or choose paraphrase, questions, self_instruct or "
                "evol_instruct.",
            )

    def augmentation(self) -> Augmentation:
        """The method with its settings."""
        kind = AUGMENTATIONS.get(self.method)
        return from_mapping(kind, self.settings, f"augment.settings of {self.method}")

    @property
    def needs(self) -> tuple[str, ...]:
        return AUGMENTATIONS.get(self.method).needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmented:
    """What came of one augmentation."""

    rows: list[Row]
    set_aside: list[SetAside]

    @property
    def made(self) -> int:
        return len(self.rows) + len(self.set_aside)


def augment(
    rows: Sequence[Row], wanted: AugmentSettings, tools: Tools, against: Against
) -> Augmented:
    """Make rows and check them.

    Args:
        rows: training rows. Documents, if the method reads them, come with the tools.

    Raises:
        ConfigError: the method does not work on such rows, or lacks what it needs.
    """
    augmentation = wanted.augmentation()
    # Other words would slip from under an extraction's tags.
    fit = [isinstance(r, augmentation.kinds) and not isinstance(r, Extraction) for r in rows]
    other = next((row for row, fits in zip(rows, fit, strict=True) if not fits), None)
    if other is not None:
        kinds = " or ".join(kind.__name__.lower() for kind in augmentation.kinds)
        found = type(other).__name__.lower()
        raise ConfigError(
            f"{wanted.method} works on {kinds} rows, and {other.id!r} is a {found} row.",
            "choose another method, or leave `augment` out.",
        )
    if "writer" in augmentation.needs and tools.writer is None:
        raise ConfigError(f"{wanted.method} needs a writer.", "give Tools(writer=…).")
    if "documents" in augmentation.needs and not tools.documents:
        raise ConfigError(
            f"{wanted.method} reads documents, and there is none whose group is not tested.",
            "add `documents:` to the data.",
        )
    tools = replace(tools, copies=wanted.copies)
    return _checked(augmentation.make(rows, tools), augmentation.checks, against)


def _checked(made: Sequence[Made], checks: tuple[str, ...], against: Against) -> Augmented:
    faults = {one.id: one.fault for one in made if one.fault}
    for name in checks:
        left = [one for one in made if one.id not in faults]
        faults |= check(left, name, against)
    kept = [one.row for one in made if one.id not in faults and one.row]
    return Augmented(
        rows=[
            replace(row, provenance=replace(row.provenance, filters=checks))
            for row in kept
            if row.provenance
        ],
        set_aside=[_aside(one, *faults[one.id]) for one in made if one.id in faults],
    )


def _aside(one: Made, reason: str, detail: str) -> SetAside:
    source = one.source
    return SetAside(file=source.file, line=source.line, id=one.id, reason=reason, detail=detail)
