"""Small verdicts to show: built here, so that a test says all it depends on."""

import dataclasses
from typing import Any

from domainwright.evaluate.kept import TaskKept
from domainwright.maths.bootstrap import Interval
from domainwright.studies.records import (
    Data,
    Difference,
    Example,
    Recommendation,
    Reply,
    Retention,
    Source,
    StrategyResult,
    Training,
    Verdict,
)


def interval(mean: float, half: float) -> Interval:
    return Interval(mean, mean - half, mean + half)


def training(**changes: Any) -> Training:
    history = [{"step": 0, "development_loss": 3.0, "general_loss": 2.9}]
    history += [{"step": n, "loss": 3 - n / 40} for n in range(1, 60)]
    history += [{"step": 60, "loss": 1.5, "development_loss": 1.6, "general_loss": 2.95}]
    values: dict[str, Any] = {
        "minutes": 3.9,
        "steps": 60,
        "best_step": 60,
        "tokens": 72_000,
        "tokens_per_s": 305.2,
        "peak_rss_mib": 2210,
        "trainable": 4_884_480,
        "settings": {"rank": 16},
        "history": history,
    }
    return Training(**values | changes)


def result(
    name: str,
    score: float,
    gain: float | None,
    *,
    half: float = 0.04,
    lost: float | None = None,
    kind: Any = "prompting",
    p_holm: float = 0.0003,
) -> StrategyResult:
    difference = None
    if gain is not None:
        difference = Difference(
            mean=gain, low=gain - half, high=gain + half, p=p_holm / 3, p_holm=p_holm
        )
    retention = None
    if lost is not None:
        retention = Retention(
            bits_per_byte=1.03,
            accuracy=0.56,
            nats_change=interval(lost, 0.01),
            bits_change=interval(lost / 3, 0.004),
            accuracy_change=interval(-0.0125, 0.03),
            tasks=[
                TaskKept(
                    name=task,
                    metric=metric,
                    higher_is_better=metric == "acc_norm",
                    items=100,
                    mean=0.62,
                    change=interval(-0.0125, 0.03),
                )
                for task, metric in (("arc_easy", "acc_norm"), ("wikitext", "bits_per_byte"))
            ],
        )
    return StrategyResult(
        name=name,
        kind=kind,
        status="done",
        score=interval(score, 0.05),
        difference=difference,
        metrics={"answer_loss": 2.1},
        parsed=1.0,
        retention=retention,
        tokens_in=520,
        tokens_out=14,
        seconds_per_answer=0.8,
        training=training() if lost is not None else None,
        adapter=f"trials/{name}/adapter" if lost is not None else None,
    )


def absent(name: str, status: Any, reason: str) -> StrategyResult:
    return StrategyResult(name=name, kind="method", status=status, reason=reason)


def verdict(*strategies: StrategyResult, best: str = "lora", **changes: Any) -> Verdict:
    """A verdict over `strategies`; without any, over one of each kind."""
    results = list(strategies) or [
        result("zero_shot", 0.18, None),
        result("rag", 0.21, 0.03),
        result("lora", 0.44, 0.26, lost=0.031, kind="method"),
        result("lora+rag", 0.52, 0.34, lost=0.06, kind="combination"),
        absent("prefix", "failed", "The run diverged at step 12."),
        absent("qlora", "skipped", "This machine has no CUDA device."),
    ]
    values: dict[str, Any] = {
        "name": "medicines", "created": "2026-11-21T20:00:00Z", "minutes": 8.7,
        "base": {"name": "smollm2-135m", "origin": "embedded", "sha256": "c3" * 32,
                 "parameters": 134_515_008},
        "machine": {"processor": "AMD EPYC", "cores": 2, "memory_gb": 25.2},
        "versions": {"domainwright": "0.1.0"}, "seed": 0, "task": "answers", "score": "token_f1",
        "max_forgetting": 0.05,
        "data": Data(
            sources=[
                Source(file="questions.jsonl", role="train", format="messages",
                       columns={"messages": "turns"}, records=1284, kept=1280,
                       set_aside={"empty_answer": 3, "not_json": 1}, sha256="ab" * 32),
                Source(file="handbook.jsonl", role="documents", format="document", columns={},
                       records=107, kept=107, set_aside={}, sha256="cd" * 32),
            ],
            train=890, development=128, test=252, tested=96, groups=21, documents=107,
            set_aside={"empty_answer": 3, "not_json": 1, "leak": 10},
            set_aside_examples=[{"file": "questions.jsonl", "line": 17, "id": None,
                                 "reason": "empty_answer", "detail": "The turn is empty."}],
            leaks={"same_text": 10}, documents_overlap=12, detectable=0.12,
            detectable_measured=0.06),
        "strategies": results,
        "recommendation": Recommendation(
            strategy=best, sentence=f"Use {best}.", reasons=["It is the cheapest of the best."]),
        "examples": [Example(
            id="q1", question="What is warfarin for?", reference="Blood clots.",
            replies=[Reply(strategy=r.name, text=f"reply of {r.name}", score=0.5,
                           passages=["Warfarin: an anticoagulant"] if "rag" in r.name else [])
                     for r in results if r.status == "done"])],
        "study": {"base": "smollm2-135m", "strategies": ("zero_shot", "lora")},
    }  # fmt: skip
    return Verdict(**values | changes)


def with_hostile_text(value: Any, text: str) -> Any:
    """The same record with `text` in every free string, dictionary keys included."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        closed = ("kind", "status", "score") if isinstance(value, (StrategyResult, Verdict)) else ()
        return dataclasses.replace(
            value,
            **{
                field.name: with_hostile_text(getattr(value, field.name), text)
                for field in dataclasses.fields(value)
                if not (field.name in closed and isinstance(getattr(value, field.name), str))
            },
        )
    if isinstance(value, str):
        return value + text
    if isinstance(value, dict):
        # The history is read by these keys, so they are no one's free text.
        fixed = {
            "step",
            "loss",
            "development_loss",
            "general_loss",
            "file",
            "line",
            "id",
            "reason",
            "detail",
            "name",
            "origin",
            "processor",
            "cores",
            "domain",
        }
        return {k if k in fixed else k + text: with_hostile_text(v, text) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(with_hostile_text(v, text) for v in value)
    return value
