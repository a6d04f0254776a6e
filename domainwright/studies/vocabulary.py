"""The terms of a domain against the training rows and a base's tokens, for `dw data terms`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainwright.core.errors import DataError
from domainwright.curate.content import content
from domainwright.curate.read import read
from domainwright.curate.terms import LEAST_COUNT, Term, coverage, terms
from domainwright.evaluate.retained import shipped_suite
from domainwright.maths.words import words
from domainwright.studies.look import tokenizer_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    terms: list[Term]
    """Of the documents, the most typical first."""
    coverage: float
    """Share of the terms that stand in the training rows."""
    fertility: float | None = None
    """Tokens of a term, mean. None: no base was named."""
    general_fertility: float | None = None
    """The same of the words that general text has as often as a term must be: three times."""

    @property
    def missing(self) -> list[Term]:
        """Terms that no training row holds."""
        return [term for term in self.terms if not term.rows]


def vocabulary(
    file: Path, documents: Path, base: str | None = None, general: Path | None = None
) -> Vocabulary:
    """Find the terms of `documents` and look for them in the rows of `file`; loads no weights.

    Args:
        general: everyday texts to compare with. None: the shipped ones, which are so few that
            only frequent terms stand out.

    Raises:
        DataError: a file cannot be read, or the documents have no term.
    """
    everyday = read(general).rows if general else shipped_suite().texts
    usual = [content(row) for row in everyday]
    rows, pages = (
        [content(row) for row in read(path, as_documents=quoted).rows]
        for path, quoted in ((file, False), (documents, True))
    )
    found = terms(pages, usual, rows)
    if not found:
        raise DataError(
            f"No word of {documents} is more typical of it than of general text.",
            "give more documents: a word counts from three occurrences.",
        )
    if base is None:
        return Vocabulary(terms=found, coverage=coverage(found))
    tokenizer = tokenizer_of(base)
    counts = Counter(word for text in usual for word in words(text))
    frequent = [word for word, count in counts.items() if count >= LEAST_COUNT]
    return Vocabulary(
        terms=found,
        coverage=coverage(found),
        fertility=fertility(tokenizer, [term.word for term in found]),
        general_fertility=fertility(tokenizer, frequent) if frequent else None,
    )


def fertility(tokenizer: Any, found: Sequence[str]) -> float:
    """Mean number of tokens of a word behind a space."""
    ids = tokenizer([" " + word for word in found], add_special_tokens=False).input_ids
    return sum(map(len, ids)) / len(ids)
