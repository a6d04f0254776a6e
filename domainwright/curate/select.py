"""Some of many rows, chosen by one of `selection/`; the others are set aside with a reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from domainwright.core.config import from_mapping
from domainwright.core.errors import ConfigError
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Row, SetAside
from domainwright.curate.content import answer, content, question
from domainwright.curate.read import ReadResult, read
from domainwright.curate.selection import SELECTIONS, Chosen, Seen, Selection
from domainwright.curate.selection.relevance import bag

NOT_SELECTED = "not_selected"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectSettings:
    """Which rows are kept, and how many."""

    method: str
    """random, k_center, facility_location, dpp, relevance, likeness, difficulty, uncertainty,
    perplexity or influence."""
    rows: int
    target: str | None = None
    """Of relevance and likeness: a file or a folder of texts that the rows should be like. None: in
    a study its documents."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the method: {low: 0.1}."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError(f"select.rows is {self.rows}.", "give a whole number from 1.")
        self.selection()
        if self.target is not None and not self.needs_target:
            raise ConfigError(
                f"select.target is {self.target}, and {self.method} looks at no target.",
                "select by relevance or likeness, or leave `target` out.",
            )

    def selection(self) -> Selection:
        """The method with its settings."""
        kind = SELECTIONS.get(self.method)
        return from_mapping(kind, self.settings, f"select.settings of {self.method}")

    @property
    def needs_base(self) -> bool:
        """Whether the base must read the rows first."""
        read = {"losses", "alone", "margins", "influence"}
        return bool(read & set(SELECTIONS.get(self.method).needs))

    @property
    def needs_target(self) -> bool:
        """Whether rows are compared with a target."""
        return bool({"bags", "target_vectors"} & set(SELECTIONS.get(self.method).needs))

    def read_target(self) -> ReadResult | None:
        """What `target` names; None: it names nothing.

        Raises:
            DataError: it cannot be read.
        """
        return None if self.target is None else read(self.target)

    def check(self, there: int) -> None:
        """Refuse to choose more rows than there are.

        Raises:
            ConfigError: more rows are wanted.
        """
        if self.rows > there:
            raise ConfigError(
                f"select.rows is {self.rows:,}, and {there:,} rows are there to choose from.",
                f"give at most {there}, or leave `select` out.",
            )


def select(
    rows: Sequence[Row], wanted: SelectSettings, see: Callable[[tuple[str, ...]], Seen]
) -> tuple[list[Row], list[SetAside]]:
    """(rows chosen, in the order they were given; the others, set aside).

    Args:
        see: what the selection needs, by its names -> what is known of the rows.

    Raises:
        ConfigError: more rows are wanted than there are, or all of them are refused.
    """
    wanted.check(len(rows))
    selection = wanted.selection()
    chosen = selection.choose(see(selection.needs), wanted.rows)
    if not chosen.rows:
        raise ConfigError(
            f"{wanted.method} refuses all {len(rows):,} rows.",
            "choose by another method, such as k_center.",
        )
    out = left_out(wanted, chosen, len(rows))
    aside = [SetAside.of(rows[n], *why) for n, why in out.items()]
    return [row for n, row in enumerate(rows) if n not in out], aside


def vectors_of(
    rows: Sequence[Row], listen: Listener = quiet, cache: Path | None = None
) -> np.ndarray:
    """Sentence vectors (N, 384) of what the rows ask; of plain text, of the text."""
    # Here: curation without vectors loads no torch.
    from domainwright.models.encoder import default_encoder

    return default_encoder().encode([question(r) or answer(r) for r in rows], listen, cache=cache)


def target_vectors_of(
    texts: Sequence[str], listen: Listener = quiet, cache: Path | None = None
) -> np.ndarray:
    """Sentence vectors (M, 384) of what rows should be like."""
    from domainwright.models.encoder import default_encoder

    return default_encoder().encode(list(texts), listen, cache=cache)


def bags_of(rows: Sequence[Row]) -> list[np.ndarray]:
    """Buckets of the words and pairs of words of each row, question and answer."""
    return [bag(content(row)) for row in rows]


def left_out(wanted: SelectSettings, chosen: Chosen, count: int) -> dict[int, tuple[str, str]]:
    """Row number -> (reason, detail) of those of `count` rows that were not chosen."""
    kept = set(chosen.rows)
    other = (NOT_SELECTED, f"{wanted.method} chose {len(kept):,} other rows")
    return {row: chosen.refused.get(row, other) for row in range(count) if row not in kept}
