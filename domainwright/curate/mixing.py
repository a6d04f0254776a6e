"""How much of each task an epoch reads.

    proportional   p_i ∝ min(n_i, K)
    temperature    p_i ∝ min(n_i, K)^(1/τ)      τ = 1: proportional; large τ: uniform
    uniform        p_i ∝ 1
    fixed          p_i ∝ the weights given

Source: Raffel et al. 2020, arXiv:1910.10683, section 3.5.2 (cap and temperature).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from domainwright.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class MixSettings:
    """How tasks share an epoch."""

    kind: Literal["proportional", "temperature", "uniform", "fixed"] = "proportional"
    cap: int | None = None
    """K: rows beyond this many do not raise a task's share. None: no cap."""
    temperature: float = 2.0
    """τ, at least 1."""
    weights: dict[str, float] = field(default_factory=dict)
    """Task -> weight, for `fixed`; they need not add up to 1."""

    def __post_init__(self) -> None:
        if self.cap is not None and self.cap < 1:
            raise ConfigError(f"mix.cap is {self.cap}.", "give a whole number from 1.")
        if not 1 <= self.temperature < math.inf:
            raise ConfigError(
                f"mix.temperature is {self.temperature}.",
                "give a number from 1; for equal shares set `kind: uniform`.",
            )
        if bool(self.weights) != (self.kind == "fixed"):
            raise ConfigError(
                f"mix.kind is {self.kind} and mix.weights names {len(self.weights)} tasks.",
                "set `kind: fixed` with a weight for every task, or leave `weights` out.",
            )
        bad = {task: w for task, w in self.weights.items() if not _positive(w)}
        if bad:
            task, weight = next(iter(bad.items()))
            raise ConfigError(f"mix.weights gives {task} {weight!r}.", "give a number above 0.")


def shares(sizes: Mapping[str, int], mix: MixSettings) -> dict[str, float]:
    """Task -> share of an epoch, adding up to 1.

    Args:
        sizes: task -> rows n_i, at least 1 each.

    Raises:
        ConfigError: fixed weights that do not name exactly these tasks.
    """
    if mix.kind == "fixed" and set(mix.weights) != set(sizes):
        raise ConfigError(
            f"mix.weights names {', '.join(sorted(mix.weights))}; the files' tasks are "
            f"{', '.join(sorted(sizes))}.",
            "give each task a weight; `task:` beside a file's `path:` names its task.",
        )
    exponent = {"temperature": 1 / mix.temperature, "uniform": 0.0}.get(mix.kind, 1.0)
    raw = {
        task: mix.weights.get(task) or min(size, mix.cap or size) ** exponent
        for task, size in sizes.items()
    }
    total = sum(raw.values())
    return {task: value / total for task, value in raw.items()}


def _positive(weight: object) -> bool:
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    return number and 0 < weight < math.inf  # type: ignore[operator]
