"""The first step of every study: files to a locked split, leaks removed, counts that add up."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import (
    Chat,
    Choice,
    Document,
    Message,
    Preference,
    Rated,
    Row,
    SetAside,
    Text,
)
from domainwright.core.seeds import share
from domainwright.curate.dataset import write_dataset
from domainwright.curate.duplicates import drop_duplicates
from domainwright.curate.labelled import as_choices
from domainwright.curate.overlap import OverlapReport, overlap, remove_leaks
from domainwright.curate.read import ReadResult, read_all
from domainwright.curate.split import Split, split, split_given
from domainwright.models.base import Base
from domainwright.studies._base import base_of
from domainwright.studies._cleaned import curated
from domainwright.studies._labels import label_notes, labels_asked
from domainwright.studies._shape import mixed, shape, tasks_of
from domainwright.studies.records import Data, Source
from domainwright.studies.study import DataSettings, StudySettings

TASK_OF = {Chat: "answers", Choice: "choices", Text: "texts"}
ROLES = ("train", "development", "test")
SHOWN = 12
"""Set-aside rows quoted in the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyData:
    split: Split
    documents: tuple[Document, ...]
    task: str
    hash: str
    """Of the dataset artifact."""
    sources: list[Source]
    set_aside: list[SetAside]
    leaks: dict[str, int]
    documents_overlap: int
    given_away: frozenset[str] = frozenset()
    """Test rows that kept training rows give away."""
    asked: Split | None = None
    """The split with training and development rows as a tuned model is asked; see `_asked`."""
    order: tuple[int, ...] | None = None
    """Numbers of the training rows that an epoch reads, some twice, some not. None: all once."""
    tasks: Mapping[str, str] = field(default_factory=dict)
    """Id of a row -> its task."""
    notes: tuple[str, ...] = ()
    """What the verdict should say beside its reasons."""

    @property
    def lessons(self) -> Split:
        """What methods are trained and watched on."""
        rows = self.asked or self.split
        if self.order is None:
            return rows
        return replace(rows, train=tuple(rows.train[n] for n in self.order))

    def test_items(self, count: int, seed: int) -> list[Row]:
        """The first `count` test rows of an order that depends on the seed and the ids alone."""
        return sorted(self.split.test, key=lambda row: share(seed, row.id))[:count]

    def record(self, tested: Sequence[Row], detectable: float) -> Data:
        """What the verdict says about the data."""
        return Data(
            sources=self.sources,
            train=len(self.split.train),
            development=len(self.split.dev),
            test=len(self.split.test),
            tested=len(tested),
            groups=len({row.group for row in tested}),
            documents=len(self.documents),
            set_aside=dict(Counter(x.reason for x in self.set_aside)),
            set_aside_examples=[asdict(x) for x in self.set_aside[:SHOWN]],
            leaks=self.leaks,
            documents_overlap=self.documents_overlap,
            detectable=detectable,
        )


def prepare(
    study: StudySettings,
    folder: Path,
    *,
    base: Callable[[], Base] | None = None,
    listen: Listener = quiet,
) -> StudyData:
    """Read, convert, deduplicate, curate, split, remove leaks, choose and make training rows; write
    `folder/dataset`.

    Args:
        base: loads the study's base, for choosing and making rows by it. None: from its settings.

    Raises:
        DataError: nothing usable, several kinds of rows, or too few groups to split.
    """
    parts: dict[str, list[Row]] = {}
    aside: list[SetAside] = []
    sources = []
    roles = [(role, entry) for role in ROLES for entry in getattr(study.data, role)]
    # All files in one call, so that no two rows have the same id.
    reads = read_all([_as_source(entry) for _, entry in roles])
    labels = labels_asked(study, [row for result in reads for row in result.rows])
    for (role, entry), result in zip(roles, reads, strict=True):
        rows, unwanted = as_conversations(result.rows)
        rows, unused = _shared(rows, entry, study.seed)
        parts.setdefault(role, []).extend(rows)
        aside += unwanted + unused
        sources.append(_source(result, role))
    for role in ROLES:
        parts[role], doubled = drop_duplicates(parts.get(role, []))
        aside += doubled
    curation = curated(study, parts, listen)
    parts["train"] = curation.train
    aside += curation.set_aside
    # After curation, which may change words: labels are compared sign for sign.
    parts = {role: as_choices(rows, labels) for role, rows in parts.items()}
    task = _task(parts)
    divided = _divided(study.data, study.seed, parts)
    document_reads = read_all(study.data.documents, as_documents=True)
    documents = _documents(document_reads)
    sources += [_source(result, "documents") for result in document_reads]
    report = overlap([*divided.train, *divided.dev], divided.test, documents)
    cleaned, dropped = _without_leaks(divided, report, keep=study.data.leaks == "keep")
    load = base or cache(lambda: base_of(study))
    shaped = shape(study, cleaned, documents, base=load, folder=folder, listen=listen)
    cleaned = replace(cleaned, train=tuple(shaped.rows))
    aside += dropped + shaped.set_aside
    reads += shaped.made
    sources += [_source(result, "augment") for result in shaped.made]
    everyone = [*cleaned.train, *cleaned.dev, *cleaned.test]
    tasks = tasks_of(everyone, [entry for _, entry in roles], reads)
    order, notes = mixed(study, cleaned.train, tasks)
    manifest = write_dataset(folder / "dataset", cleaned, aside, reads)
    everything = [x for r in (*reads, *document_reads) for x in r.set_aside] + aside
    return StudyData(
        split=cleaned,
        documents=documents,
        task=task,
        hash=manifest["hash"],
        sources=sources,
        set_aside=everything,
        leaks=dict(Counter(leak.kind for leak in report.leaks)),
        documents_overlap=len({leak.test for leak in report.in_documents}),
        given_away=_given_away(report, cleaned.train),
        order=order,
        tasks=tasks,
        notes=(*curation.notes, *notes, *shaped.notes, *label_notes(labels, cleaned)),
    )


def _documents(reads: Sequence[ReadResult]) -> tuple[Document, ...]:
    return tuple(row for read in reads for row in read.rows if isinstance(row, Document))


def _divided(settings: DataSettings, seed: int, parts: dict[str, list[Row]]) -> Split:
    """The split: what the user gave as test or development rows is used as given."""
    train, development = parts["train"], parts["development"]
    wanted: dict[str, Any] = {
        "seed": seed,
        "test_share": 0.0 if settings.test else settings.test_share,
        "dev_share": 0.0 if development else settings.development_share,
        "by_date": settings.split_by_date and not settings.test,
    }
    if settings.test and development:
        return split_given(train, parts["test"], development)
    own = split(train, **wanted)
    if not settings.test and not development:
        return own
    return split_given(own.train, parts["test"] or own.test, development or own.dev)


def _without_leaks(
    divided: Split, report: OverlapReport, *, keep: bool
) -> tuple[Split, list[SetAside]]:
    """Without rows that give test rows away; with `keep` only development has none."""
    dev, b = remove_leaks(divided.dev, report)
    if keep:
        return replace(divided, dev=tuple(dev)), b
    train, a = remove_leaks(divided.train, report)
    if not train:
        raise DataError(
            f"Every training row stands in the test rows too ({len(a)} leaks).",
            "give other test rows, or leave `data.test` out and let the study split the file.",
        )
    return replace(divided, train=tuple(train), dev=tuple(dev)), a + b


def _given_away(report: OverlapReport, train: Sequence[Row]) -> frozenset[str]:
    learned = {row.id for row in train}
    return frozenset(leak.test for leak in report.leaks if leak.train in learned)


def as_conversations(rows: Sequence[Row]) -> tuple[list[Row], list[SetAside]]:
    """Preference and rated rows as conversations with the wanted reply."""
    kept: list[Row] = []
    aside = []
    for row in rows:
        if isinstance(row, Preference):
            kept.append(_chat(row, row.prompt, row.chosen))
        elif isinstance(row, Rated) and row.wanted:
            kept.append(_chat(row, row.prompt, row.reply))
        elif isinstance(row, Rated):
            aside.append(
                SetAside.of(
                    row, "not_wanted", "the reply is rated as not wanted: it is not imitated"
                )
            )
        else:
            kept.append(row)
    return kept, aside


def _as_source(entry: str | dict) -> str | dict:
    """The entry without what is the study's own."""
    if isinstance(entry, str):
        return entry
    return {k: v for k, v in entry.items() if k not in ("share", "task")}


def _shared(rows: list[Row], entry: str | dict, seed: int) -> tuple[list[Row], list[SetAside]]:
    """The share of a file's groups that the study uses; the rest is set aside."""
    wanted = 1.0 if isinstance(entry, str) else entry.get("share", 1.0)
    number = isinstance(wanted, (int, float)) and not isinstance(wanted, bool)
    if not number or not 0 < wanted <= 1:
        raise ConfigError(f"data has a share of {wanted!r}.", "give a number above 0, at most 1.")
    kept = [row for row in rows if share(seed, f"share {row.group}") < wanted]
    kept_ids = {row.id for row in kept}
    return kept, [
        SetAside.of(row, "not_in_share", f"the study uses {wanted:.0%} of this file")
        for row in rows
        if row.id not in kept_ids
    ]


def _chat(row: Row, prompt: Sequence[Message], reply: str) -> Chat:
    return Chat(
        id=row.id,
        group=row.group,
        file=row.file,
        line=row.line,
        date=row.date,
        topic=row.topic,
        messages=(*prompt, Message("assistant", reply)),
    )


def _task(parts: dict[str, list[Row]]) -> str:
    kinds = {type(row) for rows in parts.values() for row in rows}
    if not parts["train"]:
        raise DataError(
            "The training files hold no usable row.",
            "see `dw data show FILE` for what was set aside and why.",
        )
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__.lower() for kind in kinds))
        raise DataError(
            f"The files hold several kinds of rows: {names}.",
            "decide one kind per study; set `format:` if a file was read wrongly.",
        )
    kind = kinds.pop()
    if kind not in TASK_OF:
        raise DataError(
            f"A study cannot be decided on {kind.__name__.lower()} rows.",
            "give conversations, multiple choice, labelled texts or plain text.",
        )
    return TASK_OF[kind]


def _source(result: Any, role: str) -> Source:
    return Source(
        file=result.file,
        role=role,
        format=result.format,
        columns=dict(result.columns),
        records=result.records,
        kept=len(result.rows),
        set_aside=dict(Counter(x.reason for x in result.set_aside)),
        sha256=result.sha256,
    )
