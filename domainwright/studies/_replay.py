"""General rows that are read beside the training rows: from a file, or written by the base."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from domainwright.core.errors import DataError
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Row, SetAside
from domainwright.curate.labelled import as_texts
from domainwright.curate.overlap import overlap, remove_leaks
from domainwright.curate.read import read_all
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow, encode_rows
from domainwright.studies.data import TASK_OF, as_conversations
from domainwright.train.replay import planned, with_base_lessons, written
from domainwright.train.settings import DistilSettings, TrainSettings
from domainwright.train.teacher import with_blank_lessons


def replay_rows(
    base: Base,
    settings: TrainSettings,
    measured: Sequence[Row],
    longest: int,
    folder: Path,
    listen: Listener = quiet,
) -> tuple[list[TrainRow], list[SetAside], dict[str, str]]:
    """(rows, rows of the file that are not used, hashes of what they come from).

    Args:
        measured: general texts and test rows; none of them is read again.
        longest: tokens of a document.
        folder: what the base writes or says is kept there.

    Raises:
        DataError: no usable row.
    """
    wanted = settings.replay
    if wanted is None or not (wanted.share or "ewc" in settings.penalties):
        return [], [], {}
    if wanted.source is None:
        rows, digest = written(base, wanted, longest, folder, listen)
        aside: list[SetAside] = []
    else:
        rows, aside, digest = _from_file(base, wanted.source, measured, longest)
    parents = {"replay": digest}
    if wanted.learn == "base":
        rows, parents["replay_lessons"] = with_base_lessons(base, rows, folder, listen)
    return rows, aside, parents


def planned_rows(
    base: Base, settings: TrainSettings, measured: Sequence[Row], longest: int
) -> list[TrainRow]:
    """The same for a plan: nothing is written, and lessons are blank.

    Raises:
        DataError: no usable row.
    """
    wanted = settings.replay
    if wanted is None or not (wanted.share or "ewc" in settings.penalties):
        return []
    if wanted.source is None:
        rows = planned(wanted, longest)
    else:
        rows, _, _ = _from_file(base, wanted.source, measured, longest)
    if wanted.learn == "base":
        return with_blank_lessons(rows, DistilSettings(temperature=1.0), base.vocabulary)
    return rows


def _from_file(
    base: Base, source: str, measured: Sequence[Row], longest: int
) -> tuple[list[TrainRow], list[SetAside], str]:
    (result,) = read_all([source])
    rows, aside = as_conversations(as_texts(result.rows))
    unfit = [r for r in rows if type(r) not in TASK_OF]
    if unfit:
        raise DataError(
            f"{source} holds {type(unfit[0]).__name__.lower()} rows, which are nothing to replay.",
            "give texts or conversations as train.replay.source.",
        )
    kept, leaks = remove_leaks(rows, overlap(rows, measured))
    aside += [replace(x, reason="is_measured") for x in leaks]
    encoded = encode_rows(base.template, kept, longest)
    cut = {r.id for r in encoded if r.cut}
    aside += [
        SetAside.of(row, "replay_too_long", f"a conversation beyond {longest} tokens")
        for row in kept
        if row.id in cut
    ]
    usable = [r for r in encoded if not r.cut and r.targets]
    if not usable:
        raise DataError(
            f"{source} holds no row for replay: {len(rows)} read, {len(leaks)} of them texts "
            f"or test rows that are measured, {len(cut)} too long.",
            "give other general texts, or leave train.replay.source out: the base then writes "
            "them itself.",
        )
    return usable, aside, result.sha256
