"""What a study runs and by what it is decided, where the study file leaves it open."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from domainwright.core.errors import ConfigError
from domainwright.core.records import Chat, Row
from domainwright.evaluate.tasks.choices import BALANCED
from domainwright.methods import METHODS
from domainwright.studies._names import is_gated, is_tasked, stem
from domainwright.studies._passages import passage_tokens, too_many
from domainwright.studies.data import StudyData
from domainwright.studies.judge import REFERENCE
from domainwright.studies.records import StrategyResult

LONG_WORDS = 40
"""Median length of the answers from which ROUGE-L decides: it looks at word order, which
matters once answers have several sentences."""

BY_WORDS = "rag_bm25"
"""What `auto` asks where there are too many passages to make vectors of."""
STAND_IN = "lora"
"""The method of `auto`, until a search has found a better one."""


def strategies(
    wanted: Sequence[str], data: StudyData, *, minutes: float, head: bool = False
) -> tuple[list[str], list[StrategyResult]]:
    """(names to run, the reference first; what is skipped and why).

    Args:
        minutes: the study's budget.
        head: methods train one, which of a tagged sentence reads the words alone.
    """
    auto, is_text = tuple(wanted) == ("auto",), data.task == "texts"
    bare = head and data.task == "entities"
    names = _fit_for(data, bare=bare) if auto else list(wanted)
    reasons = dict[str, str]()
    for place, name in enumerate(names):
        if prompted(name) == REFERENCE:
            continue
        if is_text:
            reasons[name] = "Plain text has no question to put anything in front of."
        elif bare and parts(name)[0]:
            reasons[name] = (
                "A head that tags words reads the sentence alone; ask for the method without it."
            )
        elif auto and "rag" in name and too_many(data, minutes):
            reasons[name] = (
                f"Vectors of {passage_tokens(data) / 1e6:.1f} million tokens of passages would "
                f"take too much of {minutes:g} minutes: passages are found by their words alone. "
                "Raise budget.minutes, or name the strategy."
            )
            if "few_shot" not in name:
                names[place] = name.replace("rag", BY_WORDS)
    # Everything is compared with the plain prompt, so it always runs, and runs first. What is
    # gated takes its answers from the others, and runs last.
    run = [n for n in sorted(names, key=is_gated) if n != REFERENCE and n not in reasons]
    skipped = [
        StrategyResult(name=n, kind=kind(n), status="skipped", reason=why)
        for n, why in reasons.items()
    ]
    return [REFERENCE, *run], skipped


def _fit_for(data: StudyData, *, bare: bool) -> list[str]:
    """What `auto` asks."""
    if data.task == "texts":
        return [REFERENCE, STAND_IN]
    names = [REFERENCE, "instructed", "few_shot", "rag"]
    if not data.documents:
        return [*names, STAND_IN]
    return [*names, "rag_few_shot", STAND_IN, *([] if bare else [f"{STAND_IN}+rag"])]


def score_name(wanted: str, data: StudyData, offered: Sequence[str], rows: Sequence[Row]) -> str:
    """The score that decides.

    Args:
        rows: whose answers' length matters.

    Raises:
        ConfigError: the task does not have the score asked for.
    """
    task = data.task
    if wanted == "auto" and data.alike:
        return BALANCED
    if wanted == "auto":
        words = [len(r.answer.split()) for r in rows[:400] if isinstance(r, Chat)]
        long = bool(words) and float(np.median(words)) > LONG_WORDS
        return offered[1] if task == "answers" and long else offered[0]
    if wanted not in offered:
        raise ConfigError(
            f"evaluate.score is {wanted!r}, which {task} do not have.",
            f"use one of: {', '.join(offered)}.",
        )
    return wanted


def parts(name: str) -> tuple[str | None, str]:
    """(method or None, prompting strategy) of a strategy's name, gated, by task or neither."""
    named = stem(name).split("+")
    method = next((p for p in named if p in METHODS), None)
    return method, next((p for p in named if p != method), REFERENCE)


def of_all_tasks(names: Sequence[str], begin: str) -> list[str]:
    """Methods of which the study trains an adapter of all tasks.

    >>> of_all_tasks(["lora+rag", "ia3+tasks"], "base"), of_all_tasks(["ia3+tasks"], "shared")
    (['lora'], ['ia3'])
    """
    found = dict[str, None]()
    for name in names:
        method, _ = parts(name)
        if method and not (is_tasked(name) and (begin == "base" or side_by_side(method))):
            found[method] = None
    return list(found)


def side_by_side(method: str) -> bool:
    """Whether METHOD+tasks begins from one run that learns every task apart.

    >>> side_by_side("multitask_prompt"), side_by_side("lora")
    (True, False)
    """
    return getattr(METHODS.get(method), "side_by_side", False)


def runs_a_method(names: Sequence[str], begin: str) -> float:
    """Trainings of a method on average: one, with METHOD+tasks beside it two or three.

    >>> runs_a_method(["lora", "lora+tasks"], "shared"), runs_a_method(["lora+tasks"], "base")
    (2.0, 1.0)
    """
    methods = {m for name in names if (m := parts(name)[0])}
    apart = {parts(name)[0] for name in names if is_tasked(name)}
    first = [m for m in apart if m and begin == "shared" and side_by_side(m)]
    runs = len(apart) + len(first) + len(of_all_tasks(names, begin))
    return runs / len(methods) if methods else 1.0


def prompted(name: str) -> str:
    """The prompting strategy of a strategy's name."""
    return parts(name)[1]


def kind(name: str) -> Any:
    method, _ = parts(name)
    return "prompting" if method is None else "combination" if "+" in name else "method"


def failed(name: str, why: Exception) -> StrategyResult:
    """A strategy that could not be measured, which must not cost the others their verdict."""
    return StrategyResult(
        name=name,
        kind=kind(name),
        status="failed",
        reason=str(why).replace("\n  fix:", " Fix:"),
    )
