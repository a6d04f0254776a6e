"""The rules that FineWeb added, for lists and menus that other rules let through.

Source: Penedo et al. 2024, arXiv:2406.17557, section 3.4; thresholds as in datatrove.
Tuned on English web pages: contracts and notes are full of short lines.
"""

from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Row, Text
from domainwright.curate.filters import FILTERS, Drop, Look, Sample


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Fineweb:
    """Text that is mostly short, open or repeated lines: dropped. Text rows only."""

    least_ended: float = 0.12
    """Share of lines that end in a mark. In [0, 1]."""
    most_short: float = 0.67
    """Share of lines of at most `short_chars` characters. In [0, 1]."""
    short_chars: int = 30
    most_repeated_chars: float = 0.01
    """Share of characters in lines that stood before. In [0, 1]."""
    most_line_ends: float = 0.3
    """Line ends per word."""

    default: ClassVar[bool] = False
    order: ClassVar[int] = 76
    finds: ClassVar[tuple[str, ...]] = ("fineweb",)

    def ready(self, sample: Sample) -> Look:
        return self._look

    def _look(self, row: Row) -> Drop | None:
        lines = [line.strip() for line in row.text.splitlines()] if isinstance(row, Text) else []
        lines = [line for line in lines if line]
        if not isinstance(row, Text) or not lines:
            return None
        ended = sum(line.endswith((".", "!", "?", '"', "'", "”", "’")) for line in lines)
        short = sum(len(line) <= self.short_chars for line in lines)
        chars = sum(map(len, lines))
        repeated = chars - sum(map(len, set(lines)))
        words = max(1, len(row.text.split()))
        for broken, detail in (
            (ended < self.least_ended * len(lines), f"{ended} of {len(lines)} lines end in a mark"),
            (short > self.most_short * len(lines), f"{short} of {len(lines)} lines are short"),
            (
                repeated > self.most_repeated_chars * chars,
                f"{repeated} of {chars} characters stood before",
            ),
            (len(lines) > self.most_line_ends * words, f"{len(lines)} lines for {words} words"),
        ):
            if broken:
                return Drop("fineweb", detail)
        return None
