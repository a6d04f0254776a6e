"""What fits into the budget: test items and training steps, from a probe of a few seconds.

    asking one strategy   items · (prompt tokens / read rate + new tokens / write rate)
    one training step     batch · row tokens / (read rate / 3.2)

The probe's rates, the prediction and what was shortened are part of the verdict. Settings
that the study gives are never changed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from domainwright.core.records import Chat, Choice, Document, Row
from domainwright.infer.generate import answer
from domainwright.models.base import Base
from domainwright.models.flat import flatten
from domainwright.models.forms import encode_rows
from domainwright.studies.study import StudySettings
from domainwright.studies.tune import full_steps, limit

TRAIN_FACTOR = 3.5
"""A training step over a forward pass of the same tokens: 1,115 tokens/s read against 319 trained
on medical answers, 2 cores."""
ENCODER_FACTOR = 6
"""Tokens the sentence encoder reads while the base reads one; it has 21M parameters."""
RETENTION_TOKENS = 19_000
"""Tokens of the shipped retention suite, every choice with its question."""
MOST_ITEMS, FEWEST_ITEMS = 200, 20
ANSWER_TOKENS = 128
CHECK_TOKENS = 9_000
"""Tokens of one check during training: development rows and general texts, at most."""
ASK_SHARE, TRAIN_SHARE = 0.45, 0.45
"""Shares of the budget that is left after retention, checks and search; the rest reads data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    items: int
    new_tokens: int
    steps: int
    """Optimiser steps of each trained strategy."""
    read_tokens_per_s: float
    write_tokens_per_s: float
    notes: tuple[str, ...]
    """What was shortened to fit, in words."""


def make_plan(
    study: StudySettings,
    base: Base,
    task: str,
    train: Sequence[Row],
    available: int,
    strategies: Sequence[str],
    documents: Sequence[Document] = (),
) -> Plan:
    """Sizes for one study."""
    encoded = [
        r for r in encode_rows(base.template, train[:400], limit(base, study.train)) if not r.cut
    ]
    mean_tokens = sum(len(r.ids) for r in encoded) / max(1, len(encoded))
    new_tokens = study.evaluate.new_tokens or (
        _needed(base, [r for r in train[:400] if isinstance(r, Chat)]) if task == "answers" else 0
    )
    read, write = _rates(base, [r.ids for r in encoded[:24]], task == "answers")
    trained = {
        s.replace("rag", "").replace("few_shot", "").strip("+")
        for s in strategies
        if not set(s.split("+")) <= {"zero_shot", "few_shot", "rag"}
    }
    fixed = (1 + len(trained)) * RETENTION_TOKENS / read
    fixed += len(trained) * (1 + study.train.checks) * CHECK_TOKENS / read
    if any("rag" in s for s in strategies):
        # About four characters a token; exact counts would cost more than they are worth here.
        fixed += sum(len(d.text) for d in documents) / 4 / (ENCODER_FACTOR * read)
    seconds = max(0.5 * study.budget.minutes * 60, study.budget.minutes * 60 - fixed)
    notes = []

    context = study.prompting.context_tokens
    # A choice is scored with its question in front: as many readings as choices.
    readings = mean([len(r.choices) for r in train[:400] if isinstance(r, Choice)] or [1])
    per_item = 0.0
    for strategy in strategies:
        extra = context if {"rag", "few_shot"} & set(strategy.split("+")) else 0
        per_item += readings * (mean_tokens + extra) / read
        per_item += new_tokens / write if write else 0.0
    most = min(available, study.evaluate.items or MOST_ITEMS)
    items = most
    if study.evaluate.items is None:
        items = min(most, max(FEWEST_ITEMS, int(ASK_SHARE * seconds / max(per_item, 1e-9))))
        if items < most:
            notes.append(
                f"{items} of {available} test items are asked, so that the study fits "
                f"into {study.budget.minutes:g} minutes."
            )
    full = study.train.steps or full_steps(len(train), study.train)
    steps = full
    if trained and study.train.steps is None:
        per_step = study.train.batch * mean_tokens * TRAIN_FACTOR / read
        steps = max(10, min(full, int(TRAIN_SHARE * seconds / len(trained) / per_step)))
        if steps < full:
            notes.append(
                f"Training takes {steps} of the {full} steps of {study.train.epochs:g} "
                f"epochs, so that the study fits into {study.budget.minutes:g} minutes."
            )
    return Plan(
        items=items,
        new_tokens=new_tokens,
        steps=min(steps, full),
        read_tokens_per_s=read,
        write_tokens_per_s=write,
        notes=tuple(notes),
    )


def _needed(base: Base, rows: Sequence[Chat]) -> int:
    """Tokens that 95 % of the answers fit into and half as many more, at most ANSWER_TOKENS.

    A model that has not seen the house style needs more words for the same facts.
    """
    lengths = sorted(len(base.template.tokens(row.answer)) + 1 for row in rows)
    return max(16, min(ANSWER_TOKENS, round(1.5 * lengths[int(0.95 * (len(lengths) - 1))])))


@torch.no_grad()
def _rates(base: Base, documents: list[list[int]], writes: bool) -> tuple[float, float]:
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
