"""The training part after the split: some rows chosen, others made out of them, tasks mixed.

Development and test rows are never among them; made rows are compared with both, so that none of
them is given away. Every row made is kept or set aside, as if it stood in a file.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from domainwright.core.artifacts import sha256_json
from domainwright.core.config import as_mapping
from domainwright.core.errors import ConfigError, DataError
from domainwright.core.progress import Listener, Step
from domainwright.core.records import Document, Row, SetAside
from domainwright.curate._synonyms import built_in, read_synonyms
from domainwright.curate.augment import Augmented, AugmentSettings, augment
from domainwright.curate.augmentation import Tools
from domainwright.curate.content import content
from domainwright.curate.mixing import shares
from domainwright.curate.read import ReadResult
from domainwright.curate.select import SelectSettings, select
from domainwright.curate.split import Split
from domainwright.curate.validity import Against
from domainwright.maths.quotas import quotas
from domainwright.models.base import Base
from domainwright.models.encoder import default_encoder
from domainwright.studies._evidence import seen
from domainwright.studies._influence import kept_influence
from domainwright.studies._writer import writer_of
from domainwright.studies.study import StudySettings, read_domain


@dataclass(slots=True)
class Shape:
    """The training rows, and what became of the others."""

    rows: list[Row]
    set_aside: list[SetAside] = field(default_factory=list)
    """Training rows that were not chosen."""
    made: list[ReadResult] = field(default_factory=list)
    """One for each augmentation: records = rows + set aside."""
    notes: list[str] = field(default_factory=list)
    """What the verdict says of it."""


def shape(
    study: StudySettings,
    divided: Split,
    documents: Sequence[Document],
    *,
    base: Callable[[], Base],
    folder: Path,
    listen: Listener,
) -> Shape:
    """Choose and make training rows as `data.select` and `data.augment` say.

    Args:
        base: loads the study's base; called only if a method reads rows with it.
        folder: of the study; vectors and losses are kept in it.

    Raises:
        ConfigError: more rows are to be chosen than there are, or a method does not fit them.
    """
    shaped = Shape(list(divided.train))
    vectors = folder / "vectors"
    if wanted := study.data.select:
        see = partial(
            seen,
            shaped.rows,
            seed=study.seed,
            base=base,
            cache=vectors,
            listen=listen,
            target=partial(_target, wanted, documents),
            influence=partial(
                kept_influence,
                shaped.rows,
                divided.dev,
                wanted.selection(),
                base=base,
                max_tokens=study.train.max_tokens,
                seed=study.seed,
                cache=vectors,
                listen=listen,
            ),
        )
        shaped.rows, shaped.set_aside = select(shaped.rows, wanted, see)
    own = list(shaped.rows)
    hidden = [*divided.dev, *divided.test]
    against = Against(
        hidden=hidden,
        encode=lambda texts: default_encoder().encode(list(texts), listen, cache=vectors),
    )
    for number, way in enumerate(study.data.augment, 1):
        listen(Step(f"augment {way.method}", 0, 1))
        tools = replace(
            _tools(study, way, _open(documents, hidden)),
            writer=(
                writer_of(way.writer, base, study.base, vectors, listen)
                if "writer" in way.needs
                else None
            ),
        )
        found = augment(own, way, tools, against)
        if way.writer and way.writer.host:
            shaped.notes.append(
                f"Rows were written by {tools.model}: training rows"
                + (" and passages" if "documents" in way.needs else "")
                + " were sent there."
            )
        shaped.made.append(_as_read(way, number, found, own))
        shaped.rows += found.rows
    return shaped


def tasks_of(
    rows: Sequence[Row], entries: Sequence[str | dict], reads: Sequence[ReadResult]
) -> dict[str, str]:
    """Id of a row -> its task: what its file's entry says, or the file's name without its ending.

    Args:
        rows: all rows, made ones too.
        entries: of all files, in the order in which `reads` begins.
    """
    named: dict[str, str] = {}
    for entry, result in zip(entries, reads, strict=False):
        own = entry.get("task") if isinstance(entry, dict) else None
        named |= dict.fromkeys((row.id for row in result.rows), str(own or Path(result.file).stem))
    return {row.id: _task(row, named) for row in rows}


def mixed(
    study: StudySettings, rows: Sequence[Row], task_of: Mapping[str, str]
) -> tuple[dict[str, float] | None, tuple[str, ...]]:
    """(task -> share of the training rows that are read, what the verdict says of it).

    Raises:
        ConfigError: weights that do not name the tasks.
        DataError: all rows are of one task.
    """
    mix = study.data.mix
    if mix is None:
        return None, ()
    sizes = Counter(task_of[row.id] for row in rows)
    if len(sizes) < 2:
        raise DataError(
            f"data.mix is set, and the training rows are of one task, {min(sizes)}.",
            "give each task a file of its own with `task:`, or leave `mix` out.",
        )
    share = shares(sizes, mix)
    drawn = quotas(share, len(rows))
    told = ", ".join(f"{task} {drawn[task]:,} (of {sizes[task]:,})" for task in sorted(sizes))
    return share, (f"An epoch reads {len(rows):,} rows by {mix.kind} mixing: {told}.",)


def unwritten(study: StudySettings) -> StudySettings:
    """The study without augmentations for which a model must write."""
    ways = tuple(way for way in study.data.augment if "writer" not in way.needs)
    return replace(study, data=replace(study.data, augment=ways))


def _target(wanted: SelectSettings, documents: Sequence[Document]) -> list[str]:
    """What the chosen rows should be like: the target's texts, else the study's documents."""
    aim = wanted.read_target()
    rows: Sequence[Row] = aim.rows if aim else documents
    if not rows:
        raise ConfigError(
            f"{wanted.method} needs a target, and the study has no documents.",
            "set `select: {target: FILE_OR_FOLDER}`, or give `data.documents`.",
        )
    return [content(row) for row in rows]


def _task(row: Row, named: dict[str, str]) -> str:
    """Of a made row, its source's; of one made from several or from a document, how it was made."""
    if row.provenance is None:
        return named[row.id]
    return named.get(row.provenance.source_id) or row.provenance.op


def _open(documents: Sequence[Document], hidden: Sequence[Row]) -> list[Document]:
    """Documents that rows may be made from: none of a group that is tested or watched."""
    groups = {row.group for row in hidden}
    return [document for document in documents if document.group not in groups]


def _tools(study: StudySettings, way: AugmentSettings, documents: Sequence[Document]) -> Tools:
    return Tools(
        seed=study.seed,
        documents=documents,
        terms=read_domain(study.domain)["terms"] if study.domain else (),
        synonyms=read_synonyms(way.synonyms) if way.synonyms else built_in(),
    )


def _as_read(way: AugmentSettings, number: int, found: Augmented, own: Sequence[Row]) -> ReadResult:
    return ReadResult(
        file=f"augment {number}: {way.method}",
        sha256=sha256_json([as_mapping(way), [row.id for row in own]]),
        format=way.method,
        columns={},
        records=found.made,
        rows=found.rows,
        set_aside=found.set_aside,
        notes={},
    )
