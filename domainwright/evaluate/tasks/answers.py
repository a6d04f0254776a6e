"""Written answers: greedy generation, marked against the reference; and the answer loss."""

from collections.abc import Sequence

from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Chat
from domainwright.evaluate.metrics import SCORES
from domainwright.evaluate.records import Item, Mark, Prompt
from domainwright.evaluate.tasks import TASKS
from domainwright.infer.generate import answer
from domainwright.infer.likelihood import Request, score
from domainwright.models.base import Base


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
        asked = [base.template.prompt(p.messages) for p in prompts]
        replies = answer(base, asked, new_tokens=new_tokens, listen=listen, stage=stage)
        wanted = [_reference_ids(base, ids, row) for ids, row in zip(asked, rows, strict=True)]
        losses = score(
            base,
            [Request(a, w) for a, w in zip(asked, wanted, strict=True)],
            listen=listen,
            stage=f"{stage}: loss",
        )
        items = []
        for row, prompt, reply, loss in zip(rows, prompts, replies, losses, strict=True):
            every = {name: f(reply.text, row.answer) for name, f in SCORES.items()}
            items.append(
                Item(
                    id=row.id,
                    group=row.group,
                    question=row.question,
                    reference=row.answer,
                    reply=reply.text,
                    mark=Mark(every[decide_by], bool(reply.text)),
                    metrics=every,
                    loss=-loss.log_probability,
                    loss_tokens=loss.tokens,
                    tokens_in=reply.prompt_tokens,
                    tokens_out=len(reply.ids),
                    seconds=reply.seconds,
                    passages=prompt.passages,
                )
            )
        return items


def _reference_ids(base: Base, asked: list[int], row: Chat) -> list[int]:
    """The reference and the end-of-turn token, as trained: what follows the bare prompt."""
    whole = base.template.conversation(row.messages)
    first = len(base.template.prompt(row.messages[:-1]))
    return whole.ids[first:]
