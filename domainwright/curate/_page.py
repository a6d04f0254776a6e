"""report.html of a curated dataset: what stayed, what went and why, in figures and bars."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from domainwright.curate.pages import environment

_CONTENT = (
    *("messages", "prompt", "chosen", "rejected", "completion", "question", "context", "choices"),
    *("title", "section", "text", "words"),
)
"""Columns that hold what a row says."""


def characters(table: pa.Table) -> NDArray[np.int64]:
    """Characters of what each row says, shape (rows)."""
    found = np.zeros(len(table), dtype=np.int64)
    for name in _CONTENT:
        if name in table.column_names:
            column = table[name].combine_chunks()
            if isinstance(column, pa.ChunkedArray):  # of no rows
                continue
            if pa.types.is_list(column.type):
                inner = column.flatten()
                said = inner.field("content") if pa.types.is_struct(inner.type) else inner
                parents = pc.list_parent_indices(column).to_numpy()
                own = np.bincount(parents, weights=_lengths(said), minlength=len(table))
                found += own.astype(np.int64)
            else:
                found += _lengths(column)
    return found


def _lengths(texts: pa.Array) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = pc.fill_null(pc.utf8_length(texts), 0).to_numpy().astype(np.int64)
    return lengths


def by_length(lengths: NDArray[np.int64]) -> Counter[int]:
    """Rows by length: 2^k -> how many have 2^k characters or more, and fewer than twice that."""
    powers = np.frexp(np.maximum(lengths, 1))[1] - 1
    values, counts = np.unique(powers, return_counts=True)
    return Counter({1 << int(v): int(n) for v, n in zip(values, counts, strict=True)})


def page(report: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The page; every text of the data is escaped.

    Args:
        report: as report.json has it.
        facts: the settings.
    """
    dropped = Counter[str]()
    for counts in report["reasons"].values():  # two filters may have one reason
        dropped.update(counts)
    lengths = {int(k): n for k, n in report["lengths"].items()}
    steps = range(int(math.log2(min(lengths))), int(math.log2(max(lengths))) + 1)
    found: str = (
        environment(Path(__file__).parent)
        .get_template("curated.html.j2")
        .render(
            r=report,
            facts=facts,
            dropped=sorted(dropped.items(), key=lambda entry: (-entry[1], entry[0])),
            lengths=[(1 << k, lengths.get(1 << k, 0)) for k in steps],
        )
    )
    return found
