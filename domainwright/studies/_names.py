"""What strategies may be called: PROMPTING, METHOD, METHOD+PROMPTING; with a method also +gated or
+tasks."""

import difflib
from collections.abc import Sequence

from domainwright.core.errors import ConfigError
from domainwright.methods import METHODS
from domainwright.prompting import PROMPTINGS

GATED = "gated"
"""The suffix of a strategy whose adapter answers only what belongs to the domain."""
TASKS = "tasks"
"""The suffix of a strategy with an adapter for every task of the files."""


def is_gated(name: str) -> bool:
    return name.endswith(f"+{GATED}")


def ungated(name: str) -> str:
    """The same strategy with its adapter always on.

    >>> ungated("lora+rag+gated"), ungated("lora")
    ('lora+rag', 'lora')
    """
    return name.removesuffix(f"+{GATED}")


def is_tasked(name: str) -> bool:
    return name.endswith(f"+{TASKS}")


def untasked(name: str) -> str:
    """The same strategy with one adapter for all tasks.

    >>> untasked("lora+rag+tasks"), untasked("lora")
    ('lora+rag', 'lora')
    """
    return name.removesuffix(f"+{TASKS}")


def stem(name: str) -> str:
    """What is trained and prompted, whoever answers."""
    return untasked(ungated(name))


def check_strategies(strategies: Sequence[str]) -> None:
    """Refuse names that no strategy has.

    Raises:
        ConfigError: an unknown part, parts that do not go together, or a name given twice.
    """
    if "auto" in strategies and len(strategies) > 1:
        raise ConfigError(
            f"strategies mixes auto with names: {', '.join(strategies)}.",
            "write auto alone, or list the names.",
        )
    for strategy in strategies:
        if strategy != "auto":
            _check(strategy)
    if len(set(strategies)) < len(strategies):
        raise ConfigError(
            f"strategies names one twice: {', '.join(strategies)}.",
            "remove the repeated name.",
        )


def _check(strategy: str) -> None:
    known = [*PROMPTINGS.names(), *METHODS.names()]
    named = strategy.split("+")
    for part in named:
        if part in METHODS and part not in known:
            METHODS.get(part)  # a family's member: its own error says what it knows
        elif part not in (*known, GATED, TASKS):
            near = difflib.get_close_matches(part, [*known, GATED, TASKS], n=1)
            raise ConfigError(
                f"There is no strategy called {part!r}.",
                f"use {near[0]!r}." if near else f"choose among: {', '.join(known)}.",
            )
    methods = [part for part in named if part in METHODS]
    if GATED in named and not methods:
        raise ConfigError(
            f"{strategy!r} has nothing to gate: it tunes no weights.",
            "name a method too, such as lora+gated or lora+rag+gated.",
        )
    if TASKS in named and not methods:
        raise ConfigError(
            f"{strategy!r} has nothing to train for each task: it tunes no weights.",
            "name a method too, such as lora+tasks or lora+rag+tasks.",
        )
    if TASKS in named and (named.count(TASKS) > 1 or named[-1] != TASKS or GATED in named):
        raise ConfigError(
            f"{strategy!r} does not say {TASKS} once and last, or is gated too.",
            f"write {'+'.join(part for part in named if part not in (GATED, TASKS))}+{TASKS}.",
        )
    rest = stem(strategy).split("+")
    if GATED in rest:
        raise ConfigError(
            f"{strategy!r} does not say {GATED} once and last.",
            f"write {'+'.join(part for part in named if part != GATED)}+{GATED}.",
        )
    if len(rest) > 1 and (len(methods) != 1 or len(rest) != 2):
        raise ConfigError(
            f"{strategy!r} is no method with a prompting strategy.",
            "write one of each, such as lora+rag.",
        )
