"""One file per published claim, small enough for one core.

A file registers one class that has

    title         what the claim says, one line
    source        who says it
    did           what is done here, some sentences
    drawing       its plot, as `bench.science.drawings.draw` takes it
    columns       the figures that the page shows, in this order
    extra(figures) -> lines            more of the page, where there is more to show
    measure(lab) -> Finding

`python -m bench.science.rows --rows S9,S10` measures, and appends a JSON line a row to
bench/science/results.jsonl; `python -m bench.science.page` writes docs/science.md from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.science.verdicts import Criterion
from domainwright.core.registry import Folder

ROWS: Folder[Any] = Folder("bench.science.rows", "row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a row measured."""

    criteria: Sequence[Criterion]
    figures: Mapping[str, Mapping[str, Sequence[float]]]
    """Arm -> figure -> one number a seed."""
    rates: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    """Arm -> rate -> validation loss of its sweep."""
    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    """Line of the plot -> its points (x, y), means over seeds."""
