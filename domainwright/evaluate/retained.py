"""What is kept of general ability: bits per byte on general text, accuracy on general choices.

Measured on every trained strategy against the untouched base, item by item, with the suite
that ships in `retention/` and with the user's own files if given. Forgetting is the loss.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Choice, Text
from domainwright.evaluate.kept import TaskKept
from domainwright.evaluate.records import Item
from domainwright.evaluate.tasks import TASKS
from domainwright.maths.bootstrap import Interval, interval
from domainwright.models.base import Base
from domainwright.models.forms import Prompt, choice_prompt

SHIPPED = Path(__file__).parent / "retention"


@dataclass(frozen=True, slots=True)
class Suite:
    texts: tuple[Text, ...]
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class AskedTask:
    """One model on a task of lm-eval."""

    name: str
    metric: str
    """By which its items are compared."""
    higher_is_better: bool
    items: tuple[Item, ...]
    max_drop: float | None = None
    """Most that may be lost on it; None: no limit."""

    @property
    def values(self) -> list[float]:
        return [x.metrics[self.metric] for x in self.items]


@dataclass(frozen=True, slots=True)
class Retained:
    """One model on the suite."""

    texts: tuple[Item, ...]
    choices: tuple[Item, ...]
    tasks: tuple[AskedTask, ...] = ()

    @property
    def bits_per_byte(self) -> float:
        return -float(np.mean([x.mark.correct for x in self.texts]))

    @property
    def accuracy(self) -> float:
        return float(np.mean([x.mark.correct for x in self.choices]))


@dataclass(frozen=True, slots=True)
class Change:
    """A tuned model against the base. Forgetting: nats and bits up, accuracy down."""

    nats_per_token: Interval
    bits_per_byte: Interval
    accuracy: Interval
    tasks: tuple[TaskKept, ...] = ()


def shipped_suite() -> Suite:
    """The suite written for this project."""
    texts = [
        Text(id=d["id"], group=d["id"], file="retention/text.jsonl", line=n, text=d["text"])
        for n, d in _lines("text.jsonl")
    ]
    choices = [
        Choice(
            id=d["id"],
            group=d["id"],
            file="retention/choices.jsonl",
            line=n,
            question=d["question"],
            choices=tuple(d["choices"]),
            answer=d["answer"],
        )
        for n, d in _lines("choices.jsonl")
    ]
    return Suite(tuple(texts), tuple(choices))


def measure(
    base: Base, suite: Suite, *, listen: Listener = quiet, stage: str = "retention"
) -> Retained:
    """The suite on the base with whatever hangs on it."""
    texts = TASKS.get("texts").run(base, suite.texts, listen=listen, stage=f"{stage}: text")
    prompts = [Prompt(text=choice_prompt(row)) for row in suite.choices]
    choices = TASKS.get("choices").run(
        base,
        suite.choices,
        prompts,
        decide_by="accuracy_norm",
        listen=listen,
        stage=f"{stage}: choices",
    )
    return Retained(tuple(texts), tuple(choices))


def change(before: Retained, after: Retained) -> Change:
    """Paired over items, after minus before."""

    def difference(a: Sequence[float], b: Sequence[float]) -> Interval:
        return interval(np.array(b) - np.array(a))

    def nats(items: tuple[Item, ...]) -> list[float]:
        # By the tokens before: new words make a text shorter, and that is no forgetting.
        pairs = zip(items, before.texts, strict=True)
        return [(x.loss or 0.0) / max(1, old.loss_tokens) for x, old in pairs]

    return Change(
        difference(nats(before.texts), nats(after.texts)),
        difference([-x.mark.correct for x in before.texts], [-x.mark.correct for x in after.texts]),
        difference(
            [x.mark.correct for x in before.choices], [x.mark.correct for x in after.choices]
        ),
        tuple(
            TaskKept(
                name=now.name,
                metric=now.metric,
                higher_is_better=now.higher_is_better,
                items=len(now.items),
                mean=float(np.mean(now.values)),
                change=difference(old.values, now.values),
                max_drop=now.max_drop,
            )
            for old, now in zip(before.tasks, after.tasks, strict=True)
        ),
    )


def _lines(name: str) -> list[tuple[int, dict]]:
    text = (SHIPPED / name).read_text(encoding="utf-8")
    return [(n, json.loads(line)) for n, line in enumerate(text.splitlines(), 1)]
