"""Variants of proposed rows, made by rule, each kept or set aside as if it stood in a file."""

from collections.abc import Sequence
from dataclasses import replace

from domainwright.core.records import Row, SetAside
from domainwright.curate._synonyms import built_in
from domainwright.curate.augment import AugmentSettings, augment
from domainwright.curate.augmentation import Tools
from domainwright.curate.read import ReadResult
from domainwright.curate.validity import Against
from domainwright.models.encoder import default_encoder
from domainwright.studies.refine.source import Source
from domainwright.studies.study import read_domain


def variants(source: Source, rows: Sequence[Row], way: str | None, number: int) -> list[ReadResult]:
    """A variant of every row, as one file; none where no way is named.

    Args:
        way: an augmentation that needs no writer.
        number: of the round.

    Raises:
        ConfigError: the way does not work on such rows.
    """
    if way is None:
        return []
    study, split = source.study, source.data.split
    terms = read_domain(study.domain)["terms"] if study.domain else ()
    against = Against(
        hidden=[*split.dev, *split.test],
        encode=lambda texts: default_encoder().encode(list(texts), source.listen),
    )
    tools = Tools(seed=study.seed, terms=terms, synonyms=built_in())
    found = augment(rows, AugmentSettings(method=way), tools, against)
    # Rounds may make a variant of the same row: ids are unique in the run.
    named = [replace(row, id=f"{row.id}@{number}") for row in found.rows]
    return [as_read(f"augment: {way}", source.data.hash, found.made, named, found.set_aside)]


def as_read(
    file: str, digest: str, records: int, rows: list[Row], aside: list[SetAside]
) -> ReadResult:
    """Rows that come from no file of a user, as what reading one would have given."""
    return ReadResult(
        file=file,
        sha256=digest,
        format=file.partition(":")[0],
        columns={},
        records=records,
        rows=rows,
        set_aside=aside,
        notes={},
    )
