"""What is read at every check of a run: some development rows, some general text."""

from collections.abc import Sequence
from itertools import accumulate

from domainwright.core.errors import DataError
from domainwright.core.records import Row, Text
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow, encode_rows
from domainwright.studies._labels import encoded_rows
from domainwright.train.settings import TrainSettings

WATCHED = 48
"""Most development rows measured at each check; more would cost training time."""
WATCHED_TOKENS = 6000
"""Most tokens of them, but never fewer than FEWEST_WATCHED rows: on answers of 230 tokens, 48 rows
at five checks took longer than ten steps of training."""
FEWEST_WATCHED = 8
GENERAL_TOKENS = 3000
"""Most tokens of general text on which forgetting is watched during a run; what is kept is
measured on all of the suite."""


def limit(base: Base, settings: TrainSettings) -> int:
    """Longest training document: what is asked for, as far as the base can read."""
    return min(settings.max_tokens, base.context)


def watched_rows(base: Base, rows: Sequence[Row], settings: TrainSettings) -> list[TrainRow]:
    """The development rows whose loss is measured during the run.

    Raises:
        DataError: all of them are too long.
    """
    encoded = encoded_rows(base, rows[: 2 * WATCHED], settings, limit(base, settings))
    whole = [r for r in encoded if not r.cut][:WATCHED]
    if not whole:
        raise DataError(
            "No development row fits the length limit.",
            "raise train.max_tokens or give development rows of your own.",
        )
    return _first(whole, WATCHED_TOKENS, FEWEST_WATCHED)


def general_rows(base: Base, texts: Sequence[Text], settings: TrainSettings) -> list[TrainRow]:
    """The general text whose loss is measured during the run."""
    return _first(encode_rows(base.template, texts, limit(base, settings)), GENERAL_TOKENS, 1)


def _first(rows: list[TrainRow], tokens: int, fewest: int) -> list[TrainRow]:
    """The first rows of at most so many tokens together, but not fewer than `fewest`."""
    read = accumulate(len(r.ids) for r in rows)
    return rows[: max(fewest, sum(x <= tokens for x in read))]
