"""Rows that stand twice, and questions that have two answers."""

from collections import defaultdict
from collections.abc import Sequence

from domainwright.core.records import Row, SetAside
from domainwright.curate.content import exact_key, judgement, question_key


def drop_duplicates(rows: Sequence[Row]) -> tuple[list[Row], list[SetAside]]:
    """(rows kept, later copies set aside as "exact_duplicate"). The first of equal rows stays.

    Only spacing is ignored: a sign such as "<" may be all that tells two rows apart.
    """
    first: dict[tuple[str, ...], Row] = {}
    kept, aside = list[Row](), list[SetAside]()
    for row in rows:
        original = first.setdefault(exact_key(row), row)
        if original is row:
            kept.append(row)
            continue
        detail = f"the same as {original.id!r} ({original.file}, line {original.line})"
        aside.append(SetAside.of(row, "exact_duplicate", detail))
    return kept, aside


def conflicting_answers(rows: Sequence[Row]) -> int:
    """Questions that stand more than once with different answers.

    A preference asks which of two replies is better, so exchanged replies conflict and
    another pair does not; a rating asks whether one reply is wanted.
    """
    found = defaultdict[str, set[str]](set)
    for row in rows:
        if key := question_key(row):
            found[key].add(judgement(row))
    return sum(len(answers) > 1 for answers in found.values())
