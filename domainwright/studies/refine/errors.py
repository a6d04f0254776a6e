"""What the champion gets wrong, in groups with names, examples and advice."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from domainwright.core.records import Choice, Rated, Row
from domainwright.curate.content import answer, question
from domainwright.evaluate.metrics import SCORES
from domainwright.evaluate.records import Item
from domainwright.studies.refine.clusters import clusters
from domainwright.studies.refine.records import Cluster, Confusion, Errors, Wrong
from domainwright.studies.refine.telling import telling

HALF = 0.5
"""Of a score that counts words: below it an answer is wrong."""
WORST = 0.25
"""Share of plain texts that count as wrong: those predicted worst."""
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Found:
    """The errors, and where each lies among the rows."""

    errors: Errors
    numbers: list[int]
    """Of the wrong rows, among the rows asked."""
    cluster_of: np.ndarray
    """Number of its cluster for each of them."""


def find_errors(
    rows: Sequence[Row],
    items: Sequence[Item],
    vectors_ND: np.ndarray,
    score: str,
    documents: int,
    reported: Sequence[Rated] = (),
) -> Found:
    """Errors among `items`, clustered by what they ask.

    Args:
        vectors_ND: unit vectors of what the rows ask.
        documents: rows the proposals have room for in retraining; the advice shares them out.
        reported: replies that users did not want.
    """
    numbers, rule = wrong(items, score)
    own_N = clusters(vectors_ND[numbers])
    texts = [question(row) or answer(row) for row in rows]
    right = [text for n, text in enumerate(texts) if n not in set(numbers)]
    members = [
        [numbers[i] for i in np.flatnonzero(own_N == k)]
        for k in range(int(own_N.max()) + 1 if len(own_N) else 0)
    ]
    found = []
    for k, inside in enumerate(members):
        others = [[texts[n] for n in one] for j, one in enumerate(members) if j != k]
        named = telling([texts[n] for n in inside], [right, *others])
        examples = _nearest(inside, vectors_ND)
        wanted = max(1, round(documents * len(inside) / len(numbers)))
        found.append(
            Cluster(
                words=named,
                errors=len(inside),
                rows=[rows[n].id for n in inside],
                examples=[_shown(items[n]) for n in examples],
                advice=_advice(len(inside), len(numbers), named, wanted),
            )
        )
    errors = Errors(
        asked=len(items),
        wrong=len(numbers),
        rule=rule,
        clusters=found,
        confusions=_confusions(rows, items),
        reported=[
            Wrong(id=row.id, question=question(row), wanted="", given=row.reply, score=0.0)
            for row in reported
        ],
    )
    return Found(errors, numbers, own_N)


def wrong(items: Sequence[Item], score: str) -> tuple[list[int], str]:
    """(numbers of the wrong items, the rule in words)."""
    marks_N = np.array([item.mark.correct for item in items])
    if score == "negative_bits_per_byte":
        few = max(1, round(WORST * len(items)))
        worst = np.argsort(marks_N, kind="stable")[:few]
        return sorted(worst.tolist()), f"the {few} texts that are predicted worst"
    if score in SCORES and score != "exact_match":
        below = np.flatnonzero(marks_N < HALF)
        return below.tolist(), f"{score.replace('_', ' ')} below {HALF}"
    return np.flatnonzero(marks_N < 1).tolist(), "the answer is not the right one"


def _nearest(inside: Sequence[int], vectors_ND: np.ndarray) -> list[int]:
    """The rows of a cluster that are most like all of it."""
    z_ND = vectors_ND[list(inside)]
    order = np.argsort(-(z_ND @ z_ND.mean(axis=0)), kind="stable")
    return [inside[i] for i in order[:EXAMPLES]]


def _shown(item: Item) -> Wrong:
    return Wrong(
        id=item.id,
        question=item.question,
        wanted=item.reference,
        given=item.reply,
        score=item.mark.correct,
    )


def _advice(errors: int, all_errors: int, named: Sequence[str], wanted: int) -> str:
    about = f"about {', '.join(named)}" if named else "of no kind that words could tell apart"
    rows = "row" if wanted == 1 else "rows"
    return (
        f"{errors} of {all_errors} errors are {about}; write or collect about {wanted} {rows} "
        "like the examples."
    )


def _confusions(rows: Sequence[Row], items: Sequence[Item]) -> list[Confusion]:
    """Labels given for others, where all rows have the same choices; most frequent first."""
    sets = {tuple(sorted(r.choices)) if isinstance(r, Choice) else () for r in rows}
    if len(sets) != 1 or () in sets:
        return []
    pairs = Counter((x.reference, x.reply) for x in items if x.reference != x.reply)
    return [
        Confusion(wanted=wanted, given=given, times=times)
        for (wanted, given), times in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
