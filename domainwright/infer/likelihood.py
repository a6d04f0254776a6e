"""How likely the model finds given continuations.

    score = Σ over the continuation's tokens of log p(token | everything before it)

Semantics of lm-evaluation-harness 0.4.13 (models/huggingface.py): inputs longer than the
context are cut on the left so that the continuation stays whole, and `greedy` says whether
every token of it was the most likely one.

What requests begin with alike is read once per batch, and each position that predicts
goes through the head once, however many requests ask for its next token.

Dimension key: D hidden size, N predicting rows, M predicted tokens, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from domainwright.core import machine
from domainwright.core.errors import DataError
from domainwright.core.progress import Listener, Step, quiet
from domainwright.models.base import Base
from domainwright.models.kernels import cross_entropy
from domainwright.models.tree import grow, shared

BATCH_TOKENS = 8192
"""Tokens read at once. A block shared by all requests is read once per batch."""
HEAD_ROWS = 256
"""Rows through the head at a time; 256 x 49,152 float32 are 50 MB."""

Key = tuple[tuple[int, ...], int]
"""(context and continuation, tokens of the continuation): what makes two requests equal."""


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
    base: Base,
    requests: Sequence[Request],
    *,
    listen: Listener = quiet,
    stage: str = "score",
    told: Callable[[int, Likelihood], None] = lambda number, likelihood: None,
) -> list[Likelihood]:
    """One likelihood per request, in the order given. Equal requests are computed once.

    Args:
        told: is given every likelihood, with its request's number, once it is known.

    Raises:
        DataError: a continuation is empty or longer than the base's context.
    """
    keys = [_key(base, request) for request in requests]
    # Sorted by what is read: neighbours share the most.
    pending = sorted(dict.fromkeys(keys), key=lambda key: key[0][:-1])
    places = defaultdict[Key, list[int]](list)
    for number, key in enumerate(keys):
        places[key].append(number)
    found: dict[Key, Likelihood] = {}
    with machine.blocks_kept():
        for batch in _batches(base, pending):
            for key, likelihood in zip(batch, _score_batch(base, batch), strict=True):
                found[key] = likelihood
                for number in places[key]:
                    told(number, likelihood)
            listen(Step(stage, len(found), len(pending)))
    return [found[key] for key in keys]


def _key(base: Base, request: Request) -> Key:
    tokens = len(request.continuation)
    if not tokens:
        raise DataError("A continuation is empty, so it has no likelihood.", "give it a text.")
    if tokens > base.context:
        raise DataError(
            f"A continuation of {tokens} tokens does not fit into the context of {base.context} "
            f"tokens of {base.source.name}.",
            "shorten the reference answers, or take a base with a longer context.",
        )
    # The last token is only predicted, never read: context + 1 tokens fit.
    return tuple((request.context + request.continuation)[-(base.context + 1) :]), tokens


def _branches(base: Base) -> bool:
    """Fed one at a time, a document reads its ancestors again: nothing would be shared."""
    return base.feeding != "single"


def _batches(base: Base, pending: Sequence[Key]) -> Iterator[list[Key]]:
    """Neighbours that read at most BATCH_TOKENS together, or one request alone."""
    batch: list[Key] = []
    tokens = rows = 0
    for whole, count in pending:
        read = whole[:-1]
        more = len(read)
        if batch and _branches(base):
            more -= shared(batch[-1][0][:-1], read)
        # Without a plain head all logits of a batch exist at once.
        many = not base.plain_head and rows + count > HEAD_ROWS
        if batch and (tokens + more > BATCH_TOKENS or many):
            yield batch
            batch, tokens, rows, more = [], 0, 0, len(read)
        batch.append((whole, count))
        tokens, rows = tokens + more, rows + count
    if batch:
        yield batch


def _score_batch(base: Base, batch: Sequence[Key]) -> list[Likelihood]:
    tree = grow([whole[:-1] for whole, _ in batch], branch=_branches(base))
    flat = tree.flat(base.device)
    rows = [
        row
        for number, (whole, count) in enumerate(batch)
        for row in tree.rows(number, len(whole) - 1 - count, len(whole) - 1)
    ]
    rows_N, places_M = torch.tensor(rows, device=base.device).unique(return_inverse=True)
    blocks: Iterable[Tensor]
    if base.plain_head:
        blocks = projected(base, base.hidden(flat, rows_N))
    else:
        blocks = base.logits(flat, rows_N).split(HEAD_ROWS)
    return likelihoods(blocks, places_M, [whole[-count:] for whole, count in batch])


def projected(base: Base, hidden_ND: Tensor) -> Iterator[Tensor]:
    """Logits block by block: all (N, V) of them never exist at once."""
    return (base.project(block) for block in hidden_ND.split(HEAD_ROWS))


def likelihoods(
    blocks: Iterable[Tensor], places_M: Tensor, continuations: Sequence[Sequence[int]]
) -> list[Likelihood]:
    """One likelihood per continuation.

    Args:
        blocks: logits of all predicting rows, in parts; statistics are taken in float32.
        places_M: the row that predicts each token of the continuations, one after the other.
    """
    labels_M = torch.tensor([t for c in continuations for t in c], device=places_M.device)
    logs_M = labels_M.new_zeros(labels_M.shape, dtype=torch.float64)
    hits_M = labels_M.new_zeros(labels_M.shape, dtype=torch.bool)
    first = 0
    for block in blocks:
        mine = ((places_M >= first) & (places_M < first + len(block))).nonzero()[:, 0]
        places, labels = places_M[mine] - first, labels_M[mine]
        # One row may predict several tokens: of each row the normaliser, from its loss on token 0.
        loss, best = cross_entropy(block, torch.zeros_like(block[:, 0], dtype=torch.long))
        normaliser = loss.double() + block[:, 0].double()
        hits_M[mine] = best[places] == labels
        logs_M[mine] = block[places, labels].double() - normaliser[places]
        first += len(block)
    counts = [len(c) for c in continuations]
    parts = zip(logs_M.split(counts), hits_M.split(counts), counts, strict=True)
    return [Likelihood(float(a.sum()), bool(b.all()), n) for a, b, n in parts]
