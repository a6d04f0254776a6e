"""How fast this machine reads and writes with a base, from a probe of a few seconds."""

import time
from itertools import cycle, islice

import torch

from domainwright.infer.generate import answer
from domainwright.models.base import Base
from domainwright.models.flat import flatten

READ_TOKENS, PIECE = 2048, 256
"""Tokens of the pass that tells how fast a base reads, and of a document in it at most."""
ROWS, BEGINNING = 96, 16
"""Answers written at once, as many as a study writes, and tokens of what each answers."""


@torch.no_grad()
def rates(base: Base, documents: list[list[int]], writes: bool) -> tuple[float, float]:
    """(tokens read per second, tokens written per second in a full batch)."""
    flat = flatten(_pieces(documents), base.device)
    base.hidden(flat)  # the first pass pays for page faults
    begun = time.perf_counter()
    for _ in range(2):
        base.hidden(flat)
    read = 2 * flat.tokens / (time.perf_counter() - begun)
    if not writes:
        return read, 0.0
    prompts = [d[:BEGINNING] for d in islice(cycle(documents), ROWS)]
    few, few_seconds = _timed_answers(base, prompts, 2)
    more, more_seconds = _timed_answers(base, prompts, 9)
    # The difference of two lengths: reading the prompts and starting up fall out of it. Answers
    # that end early make both equal; a write rate of a quarter of the read rate is then near.
    if more - few < len(prompts) or more_seconds <= few_seconds:
        return read, read / 4
    return read, (more - few) / (more_seconds - few_seconds)


def _pieces(documents: list[list[int]]) -> list[list[int]]:
    """Documents in turn, as long as an item, until a pass of them is a full one."""
    found: list[list[int]] = []
    tokens = 0
    for document in cycle(documents):
        found.append(document[:PIECE])
        tokens += len(found[-1])
        if tokens >= READ_TOKENS:
            break
    return found


def _timed_answers(base: Base, prompts: list[list[int]], new_tokens: int) -> tuple[int, float]:
    begun = time.perf_counter()
    answers = answer(base, prompts, new_tokens=new_tokens)
    return sum(len(a.ids) for a in answers), time.perf_counter() - begun
