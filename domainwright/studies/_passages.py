"""How much a study's passages are, and whether there is time to make vectors of them."""

from domainwright.curate.content import content
from domainwright.models.encoder import MAX_TOKENS
from domainwright.prompting._index import OVERLAP_WORDS, PASSAGE_WORDS
from domainwright.studies.data import StudyData

ENCODED_PER_S = 8_000
"""Tokens of four characters made vectors in a second, on two cores of a server: 7,100 of short
rows, 8,500 of prose. A constant, so that a study that goes on asks the strategies it began with."""
LARGEST_SHARE = 0.25
"""Of the budget, that vectors may take."""
CHARACTERS = 4
"""Of a token, about."""


def passage_tokens(data: StudyData, row_tokens: float | None = None) -> float:
    """Tokens of all passages: of the documents, or of the training rows where there are none.

    Args:
        row_tokens: of a mean row as the encoder cuts it. None: by its characters.
    """
    if data.documents:
        overlapping = PASSAGE_WORDS / (PASSAGE_WORDS - OVERLAP_WORDS)
        return overlapping * sum(len(d.text) for d in data.documents) / CHARACTERS
    if row_tokens is None:
        some = data.split.train[:400]
        each = (min(len(content(row)) / CHARACTERS, MAX_TOKENS) for row in some)
        row_tokens = sum(each) / max(1, len(some))
    return row_tokens * len(data.split.train)


def too_many(data: StudyData, minutes: float) -> bool:
    """Whether vectors of the passages would take too much of a budget."""
    return passage_tokens(data) > LARGEST_SHARE * 60 * minutes * ENCODED_PER_S
