"""The first step of every study: files to a locked split, leaks removed, counts that add up."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from domainwright.core.errors import DataError
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import (
    Chat,
    Choice,
    Document,
    Extraction,
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
from domainwright.curate.labelled import LabelSet, as_choices
from domainwright.curate.overlap import OverlapReport, overlap, remove_leaks
from domainwright.curate.read import ReadResult, read_all
from domainwright.curate.split import Split, split, split_given
from domainwright.curate.tagged import as_extractions, kinds_of
from domainwright.evaluate.lm_eval_exam import TaskExam
from domainwright.evaluate.tasks import TASKS
from domainwright.models.base import Base
from domainwright.studies._alike import alike_notes, by_turns, counted_alike, shares_in
from domainwright.studies._base import base_of
from domainwright.studies._cleaned import curated
from domainwright.studies._entries import as_source, shared
from domainwright.studies._labels import label_notes, labels_asked
from domainwright.studies._shape import mixed, shape, tasks_of
from domainwright.studies._task_data import from_task
from domainwright.studies.records import Data, Source
from domainwright.studies.study import DataSettings, StudySettings
from domainwright.train.settings import TrainSettings

TASK_OF = {Chat: "answers", Choice: "choices", Extraction: "entities", Text: "texts"}
WRITTEN = ("answers", "entities")
"""Tasks whose replies are written, unless a head answers."""
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
    shares: Mapping[str, float] | None = None
    """Task -> share of the training rows that are read. None: every row once an epoch."""
    tasks: Mapping[str, str] = field(default_factory=dict)
    """Id of a row -> its task."""
    alike: bool = False
    """Whether labels count alike, however many rows each has."""
    notes: tuple[str, ...] = ()
    """What the verdict should say beside its reasons."""
    folds: tuple["StudyData", ...] = ()
    """Of a cross-fitted study: the same rows once for every fold, which is its test part. The
    split of the whole has all rows in training, for the models that are shipped."""
    crossfit: bool = False
    """Whether this is a cross-fitted study or a fold of one: no row is spared for development."""
    of_lm_eval: TaskExam | None = None
    """Who asks and marks the test rows of a task of lm-eval. None: the rows are the user's own."""

    @property
    def exam(self) -> Any:
        """What asks and marks the test rows: of `evaluate.tasks`, or lm-eval's."""
        return self.of_lm_eval or TASKS.get(self.task)

    @property
    def asked_in_lm_eval(self) -> dict[str, str]:
        """Task of lm-eval -> its version, of those that the test rows are of."""
        return dict(self.of_lm_eval.versions) if self.of_lm_eval else {}

    @property
    def lessons(self) -> Split:
        """What methods are trained and watched on.

        Where no row is spared for development the training rows are watched: their loss falls to
        the end, so a run takes all its steps, unless it forgets too much.
        """
        rows = self.asked or self.split
        if self.crossfit and not rows.dev:
            return replace(rows, dev=rows.train)
        return rows

    def looked_at(self, settings: TrainSettings) -> TrainSettings:
        """Where no row is spared no state is chosen: a run is looked at once, at its end."""
        alone = self.crossfit and not self.split.dev and settings.checks is None
        return replace(settings, checks=1) if alone else settings

    @property
    def to_ask(self) -> list[Row]:
        """Rows that strategies can be tested on."""
        return [row for part in self.folds or (self,) for row in part.split.test]

    def test_items(self, count: int, seed: int) -> list[Row]:
        """The first `count` test rows of an order that depends on the seed and the ids alone; where
        labels count alike, of each in turn."""
        rows = sorted(self.to_ask, key=lambda row: share(seed, row.id))
        return (by_turns(rows) if self.alike else rows)[:count]

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
            folds=len(self.folds),
            lm_eval=self.asked_in_lm_eval,
            labels=shares_in(self.to_ask) if self.alike else {},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the study's files hold, before it is divided."""

    parts: dict[str, list[Row]]
    """Role -> its rows."""
    set_aside: list[SetAside]
    sources: list[Source]
    entries: list[str | dict]
    reads: list[ReadResult]
    """Of the entries, in their order."""
    document_reads: list[ReadResult]
    task: str
    labels: LabelSet | None
    alike: bool
    """Whether labels count alike, however many rows each has."""
    notes: tuple[str, ...]
    exam: TaskExam | None

    @property
    def documents(self) -> tuple[Document, ...]:
        reads = self.document_reads
        return tuple(row for read in reads for row in read.rows if isinstance(row, Document))


def prepare(
    study: StudySettings,
    folder: Path,
    *,
    base: Callable[[], Base] | None = None,
    listen: Listener = quiet,
    found: Found | None = None,
) -> StudyData:
    """Read, convert, deduplicate, curate, split, remove leaks, choose and make training rows; write
    `folder/dataset`.

    Args:
        base: loads the study's base, for choosing and making rows by it. None: from its settings.
        found: what the files hold. None: they are read.

    Raises:
        DataError: nothing usable, several kinds of rows, or too few groups to split.
    """
    found = found or find(study, listen)
    divided = _divided(study.data, study.seed, found.parts)
    load = base or cache(lambda: base_of(study))
    return laid_out(study, found, divided, folder, base=load, listen=listen)


def find(study: StudySettings, listen: Listener = quiet) -> Found:
    """Read, convert, deduplicate and curate.

    Raises:
        DataError: nothing usable, or several kinds of rows.
    """
    parts: dict[str, list[Row]] = {}
    aside: list[SetAside] = []
    sources = []
    roles = [(role, entry) for role in ROLES for entry in getattr(study.data, role)]
    # All files in one call, so that no two rows have the same id.
    reads = read_all([as_source(entry) for _, entry in roles])
    given = from_task(study, listen)
    for role, entry, result in given.parts if given else ():
        roles.append((role, entry))
        reads.append(result)
    unconverted = [row for result in reads for row in result.rows]
    labels, kinds = labels_asked(study, unconverted), kinds_of(unconverted)
    for (role, entry), result in zip(roles, reads, strict=True):
        rows, unwanted = as_conversations(result.rows)
        rows, unused = shared(rows, entry, study.seed)
        parts.setdefault(role, []).extend(rows)
        aside += unwanted + unused
        sources.append(_source(result, role))
    for role in ROLES:
        # What a task asks twice, lm-eval counts twice.
        if not (given and role == "test"):
            parts[role], doubled = drop_duplicates(parts.get(role, []))
            aside += doubled
    curation = curated(study, parts, listen)
    parts["train"] = curation.train
    aside += curation.set_aside
    # After curation, which may change words: labels are compared sign for sign.
    parts = {role: as_choices(as_extractions(r, kinds), labels) for role, r in parts.items()}
    if given:
        parts = {role: given.fitted(rows) for role, rows in parts.items()}
    task = _task(parts)
    document_reads = read_all(study.data.documents, as_documents=True)
    sources += [_source(result, "documents") for result in document_reads]
    return Found(
        parts=parts,
        set_aside=aside,
        sources=sources,
        entries=[entry for _, entry in roles],
        reads=reads,
        document_reads=document_reads,
        task=task,
        labels=labels,
        alike=not given and counted_alike(study, parts),
        notes=(*curation.notes, *(given.notes if given else ())),
        exam=given.exam if given else None,
    )


def laid_out(
    study: StudySettings,
    found: Found,
    divided: Split,
    folder: Path,
    *,
    base: Callable[[], Base],
    listen: Listener = quiet,
) -> StudyData:
    """Remove leaks, choose and make training rows, and write `folder/dataset`.

    Raises:
        DataError: no training row is left.
    """
    documents = found.documents
    report = overlap([*divided.train, *divided.dev], divided.test, documents)
    cleaned, dropped = _without_leaks(divided, report, keep=study.data.leaks == "keep")
    shaped = shape(study, cleaned, documents, base=base, folder=folder, listen=listen)
    cleaned = replace(cleaned, train=tuple(shaped.rows))
    if found.alike:  # a run watches the first few
        cleaned = replace(cleaned, dev=tuple(by_turns(cleaned.dev)))
    aside = [*found.set_aside, *dropped, *shaped.set_aside]
    reads = [*found.reads, *shaped.made]
    everyone = [*cleaned.train, *cleaned.dev, *cleaned.test]
    tasks = tasks_of(everyone, found.entries, reads)
    shares, notes = mixed(study, cleaned.train, tasks)
    said = [
        *label_notes(found.labels, cleaned),
        *(alike_notes(everyone) if found.alike else ()),
    ]
    manifest = write_dataset(folder / "dataset", cleaned, aside, reads)
    everything = [x for r in (*reads, *found.document_reads) for x in r.set_aside] + aside
    return StudyData(
        split=cleaned,
        documents=documents,
        task=found.task,
        hash=manifest["hash"],
        sources=[*found.sources, *(_source(result, "augment") for result in shaped.made)],
        set_aside=everything,
        leaks=dict(Counter(leak.kind for leak in report.leaks)),
        documents_overlap=len({leak.test for leak in report.in_documents}),
        given_away=_given_away(report, cleaned.train),
        shares=shares,
        tasks=tasks,
        alike=found.alike,
        notes=(*found.notes, *notes, *shaped.notes, *said),
        of_lm_eval=found.exam,
    )


def _divided(settings: DataSettings, seed: int, parts: dict[str, list[Row]]) -> Split:
    """The split: what the user gave as test or development rows is used as given."""
    train, development = parts["train"], parts["development"]
    given = bool(settings.test or settings.task)
    wanted: dict[str, Any] = {
        "seed": seed,
        "test_share": 0.0 if given else settings.test_share,
        "dev_share": 0.0 if development else settings.development_share,
        "by_date": settings.split_by_date and not given,
    }
    if given and development:
        return split_given(train, parts["test"], development)
    own = split(train, **wanted)
    if not given and not development:
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
            "give conversations, multiple choice, labelled texts, tagged sentences or plain text.",
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
