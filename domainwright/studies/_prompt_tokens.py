"""How many tokens are read to ask a test item, and to find what is shown with it.

Reckoned before any prompt is written: about four characters a token, and rows of mean length.
"""

from collections.abc import Sequence
from statistics import mean

from domainwright.core.records import Choice
from domainwright.models.encoder import MAX_TOKENS
from domainwright.prompting.few_shot import POOL
from domainwright.prompting.instructed import MOST, PHRASINGS
from domainwright.studies._choice import prompted
from domainwright.studies._passages import passage_tokens
from domainwright.studies.data import StudyData
from domainwright.studies.study import StudySettings

PASSAGE_TOKENS = 200
"""Of a document's passage at most: 150 words."""


def preparing_tokens(
    strategies: Sequence[str], data: StudyData, mean_tokens: float
) -> tuple[float, float]:
    """(tokens that the sentence encoder reads, those that the base reads) before anything is asked.

    Passages and the rows that may be examples are made vectors; instructions are tried.
    """
    asked, split = {prompted(s) for s in strategies}, data.split
    row = min(mean_tokens, MAX_TOKENS)
    searched = tried = 0.0
    if any("rag" in name for name in asked - {"rag_bm25"}):
        searched += passage_tokens(data, row)
    if asked & {"few_shot", "rag_few_shot"}:
        searched += min(POOL, len(split.train)) * row
    if "instructed" in asked:
        tried = (len(PHRASINGS) + 1) * min(MOST, len(split.dev)) * mean_tokens
    return searched, tried


def item_tokens(strategy: str, study: StudySettings, data: StudyData, mean_tokens: float) -> float:
    """Of one item with what the strategy shows it, every choice counted.

    Args:
        mean_tokens: of a training row with its answer.
    """
    # What the choices of a question share is read once; about four characters a token.
    others = [
        sum(len(c) / 4 + 1 for c in r.choices) - len(r.choices[r.answer]) / 4 - 1
        for r in data.split.train[:400]
        if isinstance(r, Choice)
    ]
    shown = _shown(prompted(strategy), study, data, mean_tokens)
    return mean_tokens + shown + mean(others or [0.0])


def _shown(prompting: str, study: StudySettings, data: StudyData, mean_tokens: float) -> float:
    """What stands before a question: so many examples and passages, as far as there is room."""
    settings, shown = study.prompting, 0.0
    if "few_shot" in prompting:
        shown += settings.examples * mean_tokens
    if "rag" in prompting:
        # Without documents, training rows are quoted.
        texts = [min(len(d.text) / 4, PASSAGE_TOKENS) for d in data.documents[:400]]
        shown += settings.passages * mean(texts or [mean_tokens])
    return min(shown, settings.context_tokens)
