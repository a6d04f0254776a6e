"""One answer to every question: what a strategy has to beat to have learned anything.

    answer = the one that most training rows have, task by task where they are of several

Answers drawn by lot, nine of ten the same, bring any tuned model to 90 %, where a plain prompt
may be at 10 %: the difference is real, and nothing has been learned of the questions. Known as
majority class or zero rule (scikit-learn: `DummyClassifier(strategy="most_frequent")`).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from domainwright.core.records import Chat, Choice, Extraction, Row
from domainwright.evaluate.metrics import SCORES
from domainwright.evaluate.records import Item, Mark
from domainwright.studies.data import StudyData
from domainwright.studies.judge import lead, score_of
from domainwright.studies.records import ConstantAnswer

ALL = ""
"""Task under which the commonest answer of all rows stands."""


def constant(
    items: Mapping[str, Sequence[Item]], data: StudyData, score: str
) -> ConstantAnswer | None:
    """How the commonest answer does on the test items, task by task where it has training rows.

    None where no two training rows answer alike, and for tasks of lm-eval, which marks by itself.

    Args:
        items: strategy -> its marked items, all in one order.
        score: by which the study is decided.
    """
    answers = {} if data.of_lm_eval else commonest(data.split.train, data.tasks)
    if ALL not in answers or not items:
        return None
    asked = next(iter(items.values()))
    given = [answers.get(data.tasks.get(item.id, ALL), answers[ALL]) for item in asked]
    own = [_answered(*one, score) for one in zip(asked, given, strict=True)]
    return ConstantAnswer(
        answers={k: v for k, v in answers.items() if v in given},
        score=score_of(own),
        leads={name: lead(mine, own) for name, mine in items.items()},
    )


def commonest(rows: Sequence[Row], task_of: Mapping[str, str]) -> dict[str, str]:
    """Task -> its commonest answer, and that of all rows; none that only one row has.

    >>> row = dict(id="a", group="", file="", line=1, question="?", choices=("yes", "no"), answer=1)
    >>> commonest([Choice(**row)] * 2, {"a": "safety"})
    {'': 'no', 'safety': 'no'}
    """
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        answer = _answer_of(row)
        if answer is not None:
            for task in {ALL, task_of.get(row.id, ALL)}:
                found[task][answer] += 1
    first = {task: counts.most_common(1)[0] for task, counts in found.items()}
    return {task: answer for task, (answer, times) in first.items() if times > 1}


def _answer_of(row: Row) -> str | None:
    if isinstance(row, Choice):
        return row.choices[row.answer]
    # What stands in a text has no commonest answer.
    return row.answer if isinstance(row, Chat) and not isinstance(row, Extraction) else None


def _answered(item: Item, answer: str, score: str) -> Item:
    """The item as if that had been the reply."""
    same = SCORES[score](answer, item.reference) if score in SCORES else answer == item.reference
    return replace(item, reply=answer, mark=Mark(float(same), True), marks=(), fold="")
