"""Where a prefix begins: noise, zeros, noise of the right size, or a text that the base read."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch

from bench.science.arms import Arm, Lab, best_rate, runs
from bench.science.rows import ROWS, Finding
from bench.science.t0 import MICRO_TOKENS, texts
from bench.science.verdicts import at_least, within
from domainwright.core.seeds import derive
from domainwright.methods import METHODS
from domainwright.methods._adapter import Adapter
from domainwright.train.loss import losses_of_rows

SIZES = (50, 200, 1000)
"""Training documents."""
PREFIX, P = 0.3, 20
STARTS = ("normal", "zero", "statistics", "text")


@ROWS.register
class S6:
    title = "A prefix needs a good start, most of all with little data"
    source = "Li and Liang 2021, arXiv:2101.00190"
    did = (
        f"A prefix of {P} rows learns D1 from {', '.join(map(str, SIZES[:-1]))} and {SIZES[-1]} "
        "documents. It starts at standard normal numbers, at zeros, at normal numbers with the "
        "mean and spread of the base's own keys and values, or at the keys and values of a text "
        "of D1. Each is at its own best rate, found with the largest number of documents."
    )
    drawing: ClassVar = ("curves", "training documents", "loss on D1, nats per token")
    columns: ClassVar = tuple(f"{size} documents" for size in SIZES)

    @staticmethod
    def measure(here: Lab) -> Finding:
        arms = _arms(here)
        swept = {name: best_rate(_sized(here, SIZES[-1]), arm) for name, arm in arms.items()}
        losses = {
            name: {
                size: [x.end["domain"] for x in runs(_sized(here, size), arm, swept[name].best)]
                for size in SIZES
            }
            for name, arm in arms.items()
        }
        words = "a prefix of zeros is not the base: most that it changes the loss of a text, nats"
        criteria = [within(words, _apart(here, arms), 1e-3, math.inf)]
        for size in SIZES:
            for better, worse in (
                ("text", "normal"),
                ("text", "statistics"),
                ("statistics", "normal"),
            ):
                pairs = zip(losses[worse][size], losses[better][size], strict=True)
                words = f"{worse} less {better}, {size} documents, nats per token"
                criteria.append(at_least(words, [a - b for a, b in pairs], 0.0))
        return Finding(
            criteria=criteria,
            figures={
                name: {f"{size} documents": own[size] for size in SIZES}
                for name, own in losses.items()
            },
            rates={name: own.losses for name, own in swept.items()},
            curves={
                name: [(size, sum(own[size]) / len(own[size])) for size in SIZES]
                for name, own in losses.items()
            },
        )


def _arms(here: Lab) -> dict[str, Arm]:
    text = texts(here.world, here.world.languages["D1"], "instruction", 1).rows[0]
    words = here.base.tokenizer.decode(text.ids[1:-1])
    return {
        name: Arm(
            name=name,
            method="prefix",
            method_settings={
                "rows": P,
                "text": words,
                "start": "text" if name == "text" else "random",
            },
            centre=PREFIX,
            begin=_begins(name),
        )
        for name in STARTS
    }


def _begins(start: str) -> Callable[[Adapter], None]:
    def fill(adapter: Any) -> None:
        table = adapter.made().data
        if start == "zero":
            table.zero_()
        elif start == "normal":
            source = torch.Generator().manual_seed(derive(0, "prefix", start))
            table.copy_(torch.randn(table.shape, generator=source))

    return fill


def _apart(here: Lab, arms: dict[str, Arm]) -> float:
    """Most that a prefix of zeros changes the loss of a text of G, in nats."""
    kind, arm = METHODS.get("prefix"), arms["zero"]
    adapter = kind.build(here.base, kind.Settings(**arm.method_settings), 0)
    arm.begin(adapter)
    rows = here.held_out("G").rows
    before = losses_of_rows(here.base, rows, MICRO_TOKENS)
    with adapter.attached():
        after = losses_of_rows(here.base, rows, MICRO_TOKENS)
    return max(abs(a - b) for a, b in zip(after, before, strict=True))


def _sized(here: Lab, documents: int) -> Lab:
    return replace(here, effort=replace(here.effort, documents=documents))
