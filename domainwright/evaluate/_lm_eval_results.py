"""What lm-evaluation-harness found, as records: figures of a task, and marks item by item."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from domainwright.evaluate.records import Item, Mark

DECIDING = ("acc_norm", "acc", "exact_match", "bits_per_byte")
"""The metric by which single items are compared: the first of these, else the task's first."""
PER_LENGTH = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""Metrics whose items are (nats, words or bytes)."""
SHOWN = 600
"""Characters kept of an item's prompt: its end, where the question stands."""
UNREAD = "[invalid]"
"""What lm-eval's filters give where they find no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure of a task or group, as lm-eval aggregates it."""

    name: str
    """"acc", or "exact_match,strict-match" where the task names its filter."""
    value: float
    error: float | None
    """Standard error; None: lm-eval has none for it."""
    higher_is_better: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """One model on one task, or on a group of tasks."""

    name: str
    version: str
    shots: int | None
    """Examples shown; None: a group whose tasks differ."""
    metrics: tuple[Metric, ...]
    deciding: str | None = None
    """The metric that the marks of the items are of; None: none is known item by item."""
    items: tuple[Item, ...] = ()
    """In lm-eval's order of documents; empty for a group. A mark is the deciding metric of this
    item alone, with its sign changed where lower is better."""


def result(name: str, found: Mapping[str, Any]) -> TaskResult:
    """A task or group, of what `lm_eval.evaluator.evaluate` returns."""
    better = found["higher_is_better"].get(name) or {}
    metrics = []
    for key, value in found["results"][name].items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = found["results"][name].get(f"{metric}_stderr,{kind}")
        metrics.append(
            Metric(
                name=named(metric, kind),
                value=float(value),
                error=float(error) if isinstance(error, (int, float, np.number)) else None,
                higher_is_better=better.get(metric),
            )
        )
    samples = found["samples"].get(name, [])
    values = _values(samples)
    everywhere = [k for k in (m.name for m in metrics) if values and all(k in v for v in values)]
    deciding = next((k for d in DECIDING for k in everywhere if k.split(",")[0] == d), None)
    deciding = deciding or next(iter(everywhere), None)
    down = any(m.name == deciding and m.higher_is_better is False for m in metrics)
    shots = found["n-shot"].get(name)
    return TaskResult(
        name=name,
        version=str(found["versions"].get(name, "")),
        shots=None if shots is None else int(shots),
        metrics=tuple(metrics),
        deciding=deciding,
        items=_items(name, samples, values, deciding, -1.0 if down else 1.0),
    )


def named(metric: str, kind: str) -> str:
    """lm-eval's name of a metric behind a filter; "none" is its name of no filter."""
    return metric if kind == "none" else f"{metric},{kind}"


def _values(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Of every document, its metrics behind all filters."""
    found: dict[int, dict[str, float]] = {}
    for sample in samples:
        own = found.setdefault(sample["doc_id"], {})
        for metric in sample["metrics"]:
            value = alone(metric, sample[metric])
            if value is not None:
                own[named(metric, sample["filter"])] = value
    return list(found.values())


def alone(metric: str, value: Any) -> float | None:
    """What a metric is for one item alone; None: it needs many, as an F1 over labels does.

    >>> alone("acc", True), alone("bits_per_byte", (-8 * math.log(2), 4)), alone("f1", (1, 0))
    (1.0, 2.0, None)
    """
    if metric in PER_LENGTH and isinstance(value, (tuple, list)):
        nats = -value[0] / max(1, value[1])
        return nats / math.log(2) if metric == "bits_per_byte" else _exp(nats)
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        return _exp(-float(value)) if metric == "perplexity" else float(value)
    return None


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))


def _items(
    name: str,
    samples: Sequence[Mapping[str, Any]],
    values: Sequence[dict[str, float]],
    deciding: str | None,
    sign: float,
) -> tuple[Item, ...]:
    first: dict[int, Mapping[str, Any]] = {}
    for sample in samples:
        first.setdefault(sample["doc_id"], sample)
    items = []
    for (number, sample), metrics in zip(first.items(), values, strict=True):
        reply, reference = _said(sample)
        items.append(
            Item(
                id=f"{name}#{number}",
                group=f"{name}#{number}",
                question=str(sample["arguments"][0][0])[-SHOWN:],
                reference=reference,
                reply=reply,
                mark=Mark(sign * metrics[deciding] if deciding else 0.0, reply != UNREAD),
                metrics=metrics,
            )
        )
    return tuple(items)


def _said(sample: Mapping[str, Any]) -> tuple[str, str]:
    """(reply, reference) of a document; of a choice, the likelier text is the reply."""
    asked, answers, target = sample["arguments"], sample["filtered_resps"], sample["target"]
    scored = all(isinstance(x, (tuple, list)) and len(x) == 2 for x in answers)
    if scored and len(asked) > 1:
        texts = [str(x[1]).strip() for x in asked]
        pick = max(range(len(answers)), key=lambda n: answers[n][0])
        right = isinstance(target, (int, np.integer)) and 0 <= target < len(texts)
        return texts[pick], texts[target] if right else str(target)
    reply = answers[0] if answers and isinstance(answers[0], str) else ""
    return reply, str(target)
