"""Entities of a sentence, written as a list or tagged word by word by a head.

    entity_f1      2 right / (given + true) of one sentence; 1 where it has none and none was given
    exact_match    1 where all entities are right and no other was given

A span is right where its type and both ends are (`maths.spans`). How a list is read, `maths.listed`
says; what it names and the sentence does not have, is given and wrong. A reply that lists nothing
and does not say `none` is not parsed and gets 0. The score is the mean over sentences; F1 of all
spans together (micro) follows from `Item.entities`.
"""

from collections.abc import Sequence
from typing import Any

from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Extraction
from domainwright.evaluate.entities import tagged, tags_words
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.tasks import TASKS
from domainwright.evaluate.tasks.answers import replies_of
from domainwright.maths.listed import Listed, listed, read_listed
from domainwright.maths.spans import counts_of, spans_of, summed
from domainwright.models.base import Base
from domainwright.models.forms import Prompt


@TASKS.register
class Entities:
    """Sentences whose entities are to be found."""

    version = 1
    scores = ("entity_f1",)

    @staticmethod
    def run(
        base: Base,
        rows: Sequence[Extraction],
        prompts: Sequence[Prompt],
        *,
        decide_by: str,
        new_tokens: int,
        listen: Listener = quiet,
        stage: str = "entities",
    ) -> list[Item]:
        """Ask and mark every row; a head that tags words reads the text alone."""
        if tags_words(base):
            return _by_head(base, rows, listen, stage)
        replies = replies_of(base, rows, prompts, new_tokens=new_tokens, listen=listen, stage=stage)
        items = []
        for row, prompt, reply in zip(rows, prompts, replies, strict=True):
            loss = reply.reference
            assert loss is not None, "a reference was given"
            items.append(
                Item(
                    reply=reply.text,
                    **_marked(row, read_listed(reply.text, row.words, row.kinds)),
                    loss=-loss.log_probability,
                    loss_tokens=loss.tokens,
                    tokens_in=reply.prompt_tokens,
                    tokens_out=len(reply.ids),
                    seconds=reply.seconds,
                    passages=prompt.passages,
                )
            )
        return items


def _by_head(base: Base, rows: Sequence[Extraction], listen: Listener, stage: str) -> list[Item]:
    """The loss is that of the tags, in nats a word."""
    found, tokens, seconds = tagged(base, rows, listen=listen, stage=stage)
    items = []
    for row, said, count in zip(rows, found, tokens, strict=True):
        loss, known = said.loss
        items.append(
            Item(
                reply=listed(row.words, said.spans),
                **_marked(row, Listed(spans=said.spans, parsed=True)),
                loss=loss,
                loss_tokens=known,
                tokens_in=count,
                seconds=seconds,
            )
        )
    return items


def _marked(row: Extraction, given: Listed) -> dict[str, Any]:
    """The fields of an Item that follow from the row and what was found in it."""
    counts = counts_of(given.spans, spans_of(row.tags), given.strange)
    total = summed(counts.values())
    score = total.f1 if given.parsed else 0.0
    return {
        "id": row.id,
        "group": row.group,
        "question": row.question,
        "reference": row.answer,
        "mark": Mark(score, given.parsed),
        "metrics": {"entity_f1": score, "exact_match": float(score == 1)},
        "entities": {kind: tuple(found) for kind, found in counts.items()},
    }
