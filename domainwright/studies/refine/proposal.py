"""Rows proposed for the errors: new ones that a user has, or training rows read again.

offered = chosen + set aside, each with its reason
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from domainwright.core.errors import DataError
from domainwright.core.records import Rated, Row, SetAside
from domainwright.core.seeds import share
from domainwright.curate.clean import Cleaner
from domainwright.curate.content import exact_key
from domainwright.curate.duplicates import drop_duplicates
from domainwright.curate.labelled import as_choices, label_set_of
from domainwright.curate.overlap import overlap, remove_leaks
from domainwright.curate.read import ReadResult, read_all
from domainwright.curate.selection import SELECTIONS, Seen
from domainwright.curate.tagged import as_extractions, kinds_asked
from domainwright.studies.data import TASK_OF, StudyData, as_conversations
from domainwright.studies.refine.errors import Found
from domainwright.studies.study import StudySettings

POOL = 2
"""Of the nearest rows to a cluster, this many times those wanted are chosen among by k-center: near
first, then unlike each other."""
MOST_TIMES = 4
"""A proposed row is read at most so often in one retraining."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Rows to choose from."""

    rows: list[Row]
    reads: list[ReadResult] = field(default_factory=list)
    """The files they come from; empty: training rows."""
    set_aside: list[SetAside] = field(default_factory=list)
    rated: list[Rated] = field(default_factory=list)
    """Replies that users did not want: listed as errors, never learned."""
    changed: dict[str, int] = field(default_factory=dict)
    """What curation did -> rows that it changed and kept."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A proposed row and why it is one."""

    row: Row
    cluster: int
    cosine: float
    """With the nearest error of the cluster."""


def offered(paths: Sequence[Path], data: StudyData, study: StudySettings) -> Offer:
    """Rows of new files, without copies and leaks; without files, the training rows.

    Where the study has `data.curate`, new rows go through the filters that its own went through.

    Raises:
        DataError: a file holds rows of another kind, or nothing is left.
    """
    split = data.split
    if not paths:
        return Offer(rows=[row for row in split.train if row.provenance is None])
    known = {row.id for part in (split.train, split.dev, split.test) for row in part}
    reads = [_distinct(result, known) for result in read_all([str(path) for path in paths])]
    rated = [r for x in reads for r in x.rows if isinstance(r, Rated) and not r.wanted]
    given = as_choices([r for x in reads for r in x.rows], label_set_of(split.train))
    rows, aside = as_conversations(as_extractions(given, kinds_asked(split.train)))
    strange = next((row for row in rows if TASK_OF.get(type(row)) != data.task), None)
    if strange is not None:
        kind = next(k.__name__.lower() for k, task in TASK_OF.items() if task == data.task)
        raise DataError(
            f"{strange.file} holds {type(strange).__name__.lower()} rows, and the study was "
            f"decided on {kind} rows.",
            f"give {kind} rows; `dw data show FILE` tells how a file is read.",
        )
    changed = dict[str, int]()
    if study.data.curate:
        # As the study's rows were: taught by them, not by the few new ones.
        cleaned = Cleaner(study.domain, split.train).judged(rows)
        rows, changed = cleaned.rows, cleaned.changes
        aside += cleaned.set_aside
    rows, doubled = drop_duplicates(rows)
    rows, trained = _not_trained(rows, split.train)
    rows, leaks = remove_leaks(rows, overlap(rows, [*split.dev, *split.test]))
    aside += doubled + trained + leaks
    if not rows:
        counts = ", ".join(sorted({entry.reason for entry in aside}))
        raise DataError(
            f"None of the {sum(x.records for x in reads)} records given can be learned ({counts}).",
            "give right answers to other questions, or leave --data out.",
        )
    return Offer(rows=rows, reads=reads, set_aside=aside, rated=rated, changed=changed)


def choose(
    rows: Sequence[Row],
    rows_ND: np.ndarray,
    found: Found,
    errors_ND: np.ndarray,
    wanted: int,
) -> tuple[list[Chosen], list[SetAside]]:
    """(about `wanted` rows near to the errors, the others set aside).

    Every row goes to the cluster of its nearest error, every cluster has its share of the errors
    of what is wanted; of its nearest rows k-center takes those unlike each other.

    Args:
        rows_ND, errors_ND: unit vectors of the rows, and of the errors in `found`'s order.
    """
    near_NE = rows_ND @ errors_ND.T
    nearest_N, cosine_N = near_NE.argmax(axis=1), near_NE.max(axis=1)
    own_N = found.cluster_of[nearest_N]
    chosen: list[Chosen] = []
    for k in range(int(found.cluster_of.max()) + 1):
        part = float((found.cluster_of == k).mean())
        few = max(1, round(wanted * part))
        inside = np.flatnonzero(own_N == k)
        pool = inside[np.argsort(-cosine_N[inside], kind="stable")][: POOL * few]
        for n in _spread(pool, rows_ND, few):
            chosen.append(Chosen(rows[n], k, float(cosine_N[n])))
    kept = {one.row.id for one in chosen}
    aside = [
        SetAside.of(
            row,
            "not_selected",
            f"cosine {cosine:.2f} with the nearest error; {len(kept)} other rows are nearer or "
            "less alike",
        )
        for row, cosine in zip(rows, cosine_N, strict=True)
        if row.id not in kept
    ]
    return chosen, aside


def reading(
    proposed: Sequence[Row], old: Sequence[Row], documents: int, part: float, seed: int
) -> tuple[list[Row], int]:
    """(the rows of one retraining of `documents` rows, how often each proposed one is read).

    Args:
        part: share of the documents that are proposed rows, as far as MOST_TIMES allows.
    """
    times = max(1, min(MOST_TIMES, round(part * documents) // len(proposed)))
    drawn = sorted(old, key=lambda row: share(seed, f"refine old {row.id}"))
    left = max(0, documents - times * len(proposed))
    return [*list(proposed) * times, *(drawn[n % len(drawn)] for n in range(left))], times


def _spread(pool: np.ndarray, rows_ND: np.ndarray, few: int) -> list[int]:
    if len(pool) <= few:
        return [int(n) for n in pool]
    seen = Seen(count=len(pool), vectors_ND=rows_ND[pool].astype(np.float32))
    picked = SELECTIONS.get("k_center")().choose(seen, few)
    return sorted(int(pool[n]) for n in picked.rows)


def _distinct(result: ReadResult, known: set[str]) -> ReadResult:
    """The file with ids that no row of the study has."""
    rows: list[Row] = []
    for row in result.rows:
        if row.id in known:
            own = f"{row.file}:{row.id}"
            # A group made from the id is no document of the study.
            group = row.group if "group" in result.columns else own
            row = replace(row, id=own, group=group)
        rows.append(row)
    return replace(result, rows=rows)


def _not_trained(rows: Sequence[Row], train: Sequence[Row]) -> tuple[list[Row], list[SetAside]]:
    known: Mapping[tuple[str, ...], str] = {exact_key(row): row.id for row in train}
    kept, aside = [], []
    for row in rows:
        if (same := known.get(exact_key(row))) is None:
            kept.append(row)
            continue
        detail = f"the same as the training row {same!r}"
        aside.append(SetAside.of(row, "already_trained", detail))
    return kept, aside
