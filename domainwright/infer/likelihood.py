"""How likely the model finds given continuations.

    score = Σ over the continuation's tokens of log p(token | everything before it)

Semantics of lm-evaluation-harness 0.4.13 (models/huggingface.py): inputs longer than the
context are cut on the left so that the continuation stays whole, and `greedy` says whether
every token of it was the most likely one. Only continuation rows go through the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from domainwright.core.errors import DataError
from domainwright.core.progress import Listener, Step, quiet
from domainwright.models.base import Base
from domainwright.models.flat import flatten

BATCH_TOKENS = 4096
HEAD_ROWS = 512
"""Rows through the head at a time; 512 x 49,152 float32 are 100 MB."""


@dataclass(frozen=True, slots=True)
class Request:
    context: list[int]
    """At least one token."""
    continuation: list[int]


@dataclass(frozen=True, slots=True)
class Likelihood:
    log_probability: float
    """In nats, summed over the continuation."""
    greedy: bool
    tokens: int


@torch.no_grad()
def score(
    base: Base, requests: Sequence[Request], *, listen: Listener = quiet, stage: str = "score"
) -> list[Likelihood]:
    """One likelihood per request, in the order given. Equal requests are computed once.

    Raises:
        DataError: a continuation is empty or longer than the base's context.
    """
    unique: dict[tuple[tuple[int, ...], int], Likelihood | None] = {}
    keys = []
    for request in requests:
        _check_length(base, len(request.continuation))
        whole = request.context + request.continuation
        # The last token is only predicted, never read: context + 1 tokens fit.
        whole = whole[-(base.context + 1) :]
        key = tuple(whole), len(request.continuation)
        unique[key] = None
        keys.append(key)
    pending = sorted(unique, key=lambda key: len(key[0]))
    done = 0
    while pending:
        batch: list[tuple[tuple[int, ...], int]] = []
        tokens = 0
        while pending and (not batch or tokens + len(pending[-1][0]) <= BATCH_TOKENS):
            batch.append(pending.pop())
            tokens += len(batch[-1][0])
        for key, scored in zip(batch, _score_batch(base, batch), strict=True):
            unique[key] = scored
        done += len(batch)
        listen(Step(stage, done, len(unique)))
    return [value for key in keys if (value := unique[key]) is not None]


def _check_length(base: Base, tokens: int) -> None:
    if not tokens:
        raise DataError("A continuation is empty, so it has no likelihood.", "give it a text.")
    if tokens > base.context:
        raise DataError(
            f"A continuation of {tokens} tokens does not fit into the context of {base.context} "
            f"tokens of {base.source.name}.",
            "shorten the reference answers, or take a base with a longer context.",
        )


def _score_batch(base: Base, batch: Sequence[tuple[tuple[int, ...], int]]) -> list[Likelihood]:
    flat = flatten([whole[:-1] for whole, _ in batch], base.device)
    rows: list[int] = []
    labels: list[int] = []
    for (whole, count), document in zip(batch, flat.documents(), strict=True):
        rows.extend(range(document.stop - count, document.stop))
        labels.extend(whole[-count:])
    rows_N = torch.tensor(rows, device=base.device)
    labels_N = torch.tensor(labels, device=base.device)
    if base.plain_head:
        chosen, best = log_probabilities(base, base.hidden(flat)[rows_N], labels_N)
    else:
        logits = base.logits(flat, rows_N).float()
        chosen = logits.log_softmax(1).gather(1, labels_N[:, None])[:, 0]
        best = logits.argmax(1) == labels_N
    counts = [count for _, count in batch]
    logs = chosen.double().split(counts)
    hits = best.split(counts)
    return [
        Likelihood(float(a.sum()), bool(b.all()), n)
        for a, b, n in zip(logs, hits, counts, strict=True)
    ]


def log_probabilities(base: Base, hidden_ND: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """(log p(label), was it the most likely token) per row, block by block, float32.

    The (N, V) logits never exist at once.
    """
    chosen, best = [], []
    for start in range(0, len(labels_N), HEAD_ROWS):
        labels = labels_N[start : start + HEAD_ROWS]
        logits = base.project(hidden_ND[start : start + HEAD_ROWS]).float()
        picked = logits.gather(1, labels[:, None])
        chosen.append((picked - logits.logsumexp(1, keepdim=True))[:, 0])
        best.append(logits.argmax(1) == labels)
    return torch.cat(chosen), torch.cat(best)
