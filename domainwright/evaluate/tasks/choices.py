"""Multiple choice by log-likelihood, with lm-evaluation-harness's semantics.

    score_i = log p(" " + choice_i | prompt)
    accuracy       argmax of score_i
    accuracy_norm  argmax of score_i / characters of choice_i
    balanced_accuracy  accuracy_norm, every label counted alike (`maths.balanced`)

Source: lm_eval 0.4.13, api/task.py (`acc`, `acc_norm`); the first of equal scores wins.
"""

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Choice
from domainwright.evaluate.labels import headed, marked
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.so_far import SoFar
from domainwright.evaluate.tasks import TASKS
from domainwright.infer.likelihood import Likelihood, Request, score
from domainwright.models.base import Base
from domainwright.models.forms import Prompt, continuation, offered

BALANCED = "balanced_accuracy"
"""Only where all rows have the same choices; items are weighed by who asks them."""
READINGS = ("accuracy_norm", "accuracy")


@TASKS.register
class Choices:
    """Questions with one right choice."""

    version = 1
    scores = (*READINGS, BALANCED)

    @staticmethod
    def run(
        base: Base,
        rows: Sequence[Choice],
        prompts: Sequence[Prompt],
        *,
        decide_by: str,
        new_tokens: int = 0,
        listen: Listener = quiet,
        stage: str = "choices",
    ) -> list[Item]:
        """Score every choice of every row; a head that knows these choices says which it is."""
        if headed(base, rows):
            return marked(base, rows, prompts, READINGS, listen=listen, stage=stage)
        reading = READINGS[0] if decide_by == BALANCED else decide_by
        requests, owners = [], []
        for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            for choice in offered(row):
                requests.append(Request(*continuation(base.template, prompt.text, choice)))
                owners.append(number)
        so_far, known = SoFar(listen), defaultdict[int, dict[int, float]](dict)

        def told(place: int, likelihood: Likelihood) -> None:
            row, mine = rows[owners[place]], known[owners[place]]
            mine[place] = likelihood.log_probability
            # What is known so far says nothing of a balanced mean.
            if len(mine) == len(row.choices) and decide_by != BALANCED:
                pick = _picks(row, [mine[n] for n in sorted(mine)])[reading]
                so_far.add(row.group, float(pick == row.answer))

        begun = time.perf_counter()
        likelihoods = score(base, requests, listen=so_far, stage=stage, told=told)
        seconds = (time.perf_counter() - begun) / max(1, len(rows))
        items, start = [], 0
        for row, prompt in zip(rows, prompts, strict=True):
            mine = likelihoods[start : start + len(row.choices)]
            asked = requests[start]
            start += len(row.choices)
            picks = _picks(row, [x.log_probability for x in mine])
            pick = picks[reading]
            right = mine[row.answer]
            items.append(
                Item(
                    id=row.id,
                    group=row.group,
                    question=row.question,
                    reference=row.choices[row.answer],
                    reply=row.choices[pick],
                    mark=Mark(float(pick == row.answer), True),
                    metrics={name: float(p == row.answer) for name, p in picks.items()},
                    loss=-right.log_probability,
                    loss_tokens=right.tokens,
                    tokens_in=len(asked.context),
                    tokens_out=sum(x.tokens for x in mine),
                    seconds=seconds,
                    passages=prompt.passages,
                )
            )
        return items


def _picks(row: Choice, log_probabilities: Sequence[float]) -> dict[str, int]:
    """Score -> the choice that it takes."""
    scores = np.array(log_probabilities)
    return {
        "accuracy": int(scores.argmax()),
        "accuracy_norm": int((scores / [len(c) for c in row.choices]).argmax()),
    }
