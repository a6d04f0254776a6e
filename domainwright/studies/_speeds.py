"""How fast this machine reads and writes with a base, from a probe of a few seconds."""

import time

import torch

from domainwright.infer.generate import answer
from domainwright.models.base import Base
from domainwright.models.flat import flatten


@torch.no_grad()
def rates(base: Base, documents: list[list[int]], writes: bool) -> tuple[float, float]:
    """(tokens read per second, tokens written per second in a full batch)."""
    flat = flatten([d[:256] for d in documents], base.device)
    base.hidden(flat)  # the first pass pays for page faults
    begun = time.perf_counter()
    base.hidden(flat)
    read = flat.tokens / (time.perf_counter() - begun)
    if not writes:
        return read, 0.0
    prompts = [d[:64] for d in (documents * 32)[:32]]
    few, few_seconds = _timed_answers(base, prompts, 2)
    more, more_seconds = _timed_answers(base, prompts, 14)
    # The difference of two lengths: reading the prompts and starting up fall out of it. Answers
    # that end early make both equal; a write rate of a quarter of the read rate is then near.
    if more - few < len(prompts) or more_seconds <= few_seconds:
        return read, read / 4
    return read, (more - few) / (more_seconds - few_seconds)


def _timed_answers(base: Base, prompts: list[list[int]], new_tokens: int) -> tuple[int, float]:
    begun = time.perf_counter()
    answers = answer(base, prompts, new_tokens=new_tokens)
    return sum(len(a.ids) for a in answers), time.perf_counter() - begun
