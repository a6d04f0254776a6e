"""Written answers: greedy generation, marked against the reference; and the answer loss."""

from collections.abc import Callable, Sequence

from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Chat
from domainwright.evaluate.metrics import SCORES
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.so_far import SoFar
from domainwright.evaluate.tasks import TASKS
from domainwright.infer.generate import Answer, answer
from domainwright.models.base import Base
from domainwright.models.forms import Prompt

REFERENCE_TOKENS = 1024
"""Tokens of a reference that the loss counts: the same for every strategy."""


@TASKS.register
class Answers:
    """Conversations whose last turn the model must write."""

    version = 1
    scores = ("token_f1", "rouge_l", "exact_match")

    @staticmethod
    def run(
        base: Base,
        rows: Sequence[Chat],
        prompts: Sequence[Prompt],
        *,
        decide_by: str,
        new_tokens: int,
        listen: Listener = quiet,
        stage: str = "answers",
    ) -> list[Item]:
        """Ask and mark every row. The loss is that of the reference after the same prompt."""
        so_far = SoFar(listen)

        def told(number: int, reply: Answer) -> None:
            item = marked(rows[number], prompts[number], reply, decide_by)
            so_far.add(item.group, item.mark.correct)

        replies = replies_of(
            base, rows, prompts, new_tokens=new_tokens, listen=so_far, stage=stage, told=told
        )
        return [marked(*one, decide_by) for one in zip(rows, prompts, replies, strict=True)]


def replies_of(
    base: Base,
    rows: Sequence[Chat],
    prompts: Sequence[Prompt],
    *,
    new_tokens: int,
    listen: Listener,
    stage: str,
    losses: bool = True,
    told: Callable[[int, Answer], None] | None = None,
) -> list[Answer]:
    """What the base writes behind every prompt, with the loss of the row's reference there.

    Args:
        told: see `infer.generate.answer`.

    Raises:
        ConfigError: a conversation does not fit into the base's context.
    """
    asked = [base.template.prompt(p.messages) for p in prompts]
    wanted = [reference_ids(base, row) for row in rows] if losses else None
    return answer(
        base,
        asked,
        new_tokens=new_tokens,
        references=wanted,
        listen=listen,
        stage=stage,
        told=told,
    )


def marked(row: Chat, prompt: Prompt, reply: Answer, decide_by: str) -> Item:
    """One reply beside its reference; with the reference's loss where it was asked for."""
    loss = reply.reference
    every = {name: f(reply.text, row.answer) for name, f in SCORES.items()}
    return Item(
        id=row.id,
        group=row.group,
        question=row.question,
        reference=row.answer,
        reply=reply.text,
        mark=Mark(every[decide_by], bool(reply.text)),
        metrics=every,
        loss=-loss.log_probability if loss else None,
        loss_tokens=loss.tokens if loss else 0,
        tokens_in=reply.prompt_tokens,
        tokens_out=len(reply.ids),
        seconds=reply.seconds,
        passages=prompt.passages,
    )


def reference_ids(base: Base, row: Chat) -> list[int]:
    """The reference and its end-of-turn token, as trained: what follows the bare prompt."""
    whole = base.template.conversation(row.messages)
    if row.literal:
        learned = [token for token, on in zip(whole.ids, whole.supervised, strict=True) if on]
        return learned[: min(REFERENCE_TOKENS, base.context // 2)]
    first = len(base.template.prompt(row.messages[:-1]))
    return whole.ids[first:][: min(REFERENCE_TOKENS, base.context // 2)]
