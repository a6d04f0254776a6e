"""Questions whose choices are always the same, answered by a head instead of by likelihood.

    accuracy    share of items whose likeliest label is the right one
    macro-F1    mean over the labels of 2·tp / (2·tp + fp + fn); 0 for a label never right

The items are those of the task `choices`, so a head and the likelihood of choices are compared
item by item.
"""

import time
from collections.abc import Sequence

from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Choice
from domainwright.evaluate.records import Item, Mark
from domainwright.infer.labels import label_logits
from domainwright.models.base import Base
from domainwright.models.forms import Prompt


def headed(base: Base, rows: Sequence[Choice]) -> bool:
    """Whether the head on the base knows exactly the choices of every row."""
    head = base.hooks.head
    if head is None or head.kind != "classification":
        return False
    known = set(head.labels)
    return all(set(row.choices) == known for row in rows)


def marked(
    base: Base,
    rows: Sequence[Choice],
    prompts: Sequence[Prompt],
    scores: Sequence[str],
    *,
    listen: Listener = quiet,
    stage: str = "labels",
) -> list[Item]:
    """Every row, asked and marked; each of `scores` is the accuracy."""
    head = base.hooks.head
    assert head is not None, "asked only where `headed` holds"
    labels = head.labels
    documents = [base.template.tokenizer(prompt.text).input_ids for prompt in prompts]
    begun = time.perf_counter()
    logits = label_logits(base, documents, listen=listen, stage=stage)
    seconds = (time.perf_counter() - begun) / max(1, len(rows))
    items = []
    for row, prompt, ids, logits_C in zip(rows, prompts, documents, logits, strict=True):
        pick, right = labels[int(logits_C.argmax())], row.choices[row.answer]
        items.append(
            Item(
                id=row.id,
                group=row.group,
                question=row.question,
                reference=right,
                reply=pick,
                mark=Mark(float(pick == right), True),
                metrics=dict.fromkeys(scores, float(pick == right)),
                loss=-float(logits_C.log_softmax(0)[labels.index(right)]),
                loss_tokens=1,
                tokens_in=len(ids),
                tokens_out=0,
                seconds=seconds,
                passages=prompt.passages,
            )
        )
    return items


def macro_f1(items: Sequence[Item]) -> float:
    """Of replies against references, over every label that is either. In [0, 1].

    >>> macro_f1([])
    0.0
    """
    labels = {x.reference for x in items} | {x.reply for x in items}
    found = []
    for label in labels:
        right = sum(x.reply == label == x.reference for x in items)
        wrong = sum((x.reply == label) != (x.reference == label) for x in items)
        found.append(2 * right / (2 * right + wrong))
    return sum(found) / len(found) if found else 0.0
