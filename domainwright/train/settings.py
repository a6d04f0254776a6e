"""How long and how hard one run trains."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from domainwright.core.errors import ConfigError
from domainwright.train.regimes import ReplaySettings, check
from domainwright.train.tasks import TaskSettings

STEPS_A_CHECK = 15
"""A look costs as much as several steps; a short run has no time for many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilSettings:
    """Learn from a teacher. See `train.distillation` for the loss, `train.teacher` for the rest."""

    teacher: str | None = None
    """Alias, hub id or folder of a base, or the folder of a run or an adapter. None: the base
    itself, untouched."""
    learn: Literal["logits", "sequences"] = "logits"
    """Its probabilities of the rows' own tokens, or the answers it writes in their place."""
    weight: float = 0.5
    """Share of the teacher's probabilities in the loss; the rest is the rows' own. In (0, 1]."""
    temperature: float = 2.0
    """Both sides' logits are divided by it, so that unlikely tokens teach too."""
    top: int | None = 64
    """Likeliest tokens kept of every distribution; 8 bytes each on the disk and in memory. None:
    the whole vocabulary."""
    new_tokens: int = 256
    """Longest answer of a teacher of sequences; one that does not end by then is set aside."""

    def __post_init__(self) -> None:
        for name in ("top", "new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"train.distil.{name} is {value}.", "give a whole number from 1.")
        if not 0 < self.weight <= 1:
            raise ConfigError(
                f"train.distil.weight is {self.weight}, outside (0, 1].",
                "give a share of the loss such as 0.5, or leave `distil` out.",
            )
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"train.distil.temperature is {self.temperature}.", "give a number such as 2.0."
            )
        if self.teacher is None and self.learn == "logits" and self.weight == 1:
            raise ConfigError(
                "train.distil.weight is 1 and the base is its own teacher: it is at its goal "
                "before the first step.",
                "give a weight such as 0.5, or another teacher.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Every field carries its unit. None means: chosen from the data, the base and the budget."""

    steps: int | None = None
    """Optimiser steps. None: `epochs` over the training rows, as far as the budget goes."""
    epochs: float | None = None
    """Passes over the training rows when `steps` is not given. None: 2, and where that is fewer
    than 120 steps, as many as reach them, up to 4; up to 8 where 4 are fewer than 24 steps."""
    batch: int = 8
    """Documents per optimiser step."""
    learning_rate: float | None = None
    """Highest rate. None: the method's default for the base's size."""
    schedule: Literal["constant", "linear", "cosine", "wsd", "stlr"] = "linear"
    """What follows the warm-up; "stlr" (ULMFiT's slanted triangle) has a rise of its own."""
    warmup_share: float = 0.05
    """Share of the steps spent rising linearly from 0; "stlr" has none. In [0, 1)."""
    decay_share: float = 0.2
    """Share of the steps spent falling at the end of "wsd". In [0, 1]."""
    weight_decay: float = 0.0
    """Of matrices. What is learned as a change of the base falls towards the base."""
    vector_decay: float = 0.0
    """Of gains, biases and scales, which decay makes small without making them simple."""
    clip: float = 1.0
    """Largest global gradient norm."""
    max_tokens: int = 1024
    """Longest document. Conversations beyond it are set aside, texts are cut into pieces."""
    max_cut_share: float = 0.1
    """Refuse to train when more than this share of the rows would be set aside. In [0, 1]."""
    micro_tokens: int | None = None
    """Tokens in one forward pass. None: from the memory budget. Changes memory, not results."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Compute activations twice instead of keeping them. "auto": where the run would not fit
    otherwise. Changes memory and time, not results."""
    offload: bool | Literal["auto"] = "auto"
    """Keep the optimiser's state and the best state on the disk, of a GPU in the host's memory.
    "auto": where the run would not fit otherwise. Changes memory and time, not results."""
    checks: int | None = None
    """How often the development loss and forgetting are measured during the run. None: once in
    STEPS_A_CHECK steps, from twice to five times."""
    patience: int | None = None
    """Stop after this many checks without a better development loss. None: run to the end."""
    max_forgetting: float = 0.05
    """Largest rise of the loss on general text, nats per token, that a kept state may have."""
    checkpoint_every: int = 10
    """Optimiser steps between checkpoints."""
    distil: DistilSettings | None = None
    """Learn from a teacher, too. None: from the rows alone."""
    head: bool = False
    """Labels, choices that are always the same, tagged sentences: every method trains a head that
    says which label it is, or the tag of every word, instead of writing words."""
    replay: ReplaySettings | None = field(default_factory=ReplaySettings)
    """Read general texts too, so that less is forgotten. None: the rows alone."""
    penalties: dict[str, Any] = field(default_factory=dict)
    """What leaving the base costs: {kl: {weight: 0.1}}; one file each in `train/penalties`."""
    label_smoothing: float = 0.0
    """Share of each target that is given to all tokens alike. In [0, 1)."""
    prompt_weight: float = 0.0
    """How much a token that is not supervised, as of a question, counts. In [0, 1]."""
    neftune: float = 0.0
    """Strength of uniform noise on the embeddings while training; usual are 5 to 15."""
    r_drop: float = 0.0
    """Strength with which two readings of a row under different noise are made to agree."""
    mixout: float = 0.0
    """Chance of every changed weight to be the base's own again in a step, for methods that hold
    new values of weights; usual are 0.7 to 0.9. In [0, 1)."""
    tasks: TaskSettings | None = None
    """How several tasks share the steps. None: all tokens count alike."""
    average: float | None = None
    """Share of the run after which the adapter's states are averaged; the mean is judged like any
    other state at the end. None: not."""

    def checks_in(self, steps: int) -> int:
        """How often a run of so many steps is looked at."""
        return self.checks or max(2, min(5, steps // STEPS_A_CHECK))

    def __post_init__(self) -> None:
        check(self)
        if self.head and self.distil is not None:
            raise ConfigError(
                "train.head and train.distil are both set, and no teacher speaks of labels.",
                "leave one of the two out.",
            )
        for name in (
            "steps",
            "batch",
            "max_tokens",
            "micro_tokens",
            "checks",
            "checkpoint_every",
            "patience",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"train.{name} is {value}.", "give a whole number from 1.")
        for name in ("warmup_share", "decay_share", "max_cut_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(
                    f"train.{name} is {value}, outside [0, 1].",
                    "give a share of the run such as 0.05, not a number of steps.",
                )
        for name in ("weight_decay", "vector_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"train.{name} is {getattr(self, name)}.", "give a number from 0, such as 0.01."
                )
        for name in ("epochs", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"train.{name} is {value}.", "give a number above 0.")
        if self.learning_rate is not None and not 0 < self.learning_rate < 10:
            raise ConfigError(
                f"train.learning_rate is {self.learning_rate}.", "give a rate such as 1.0e-3."
            )
