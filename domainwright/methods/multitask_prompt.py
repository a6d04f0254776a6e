"""Multitask prompt tuning: one task's share of a prompt that several tasks have in common.

    p = P* ⊙ (U V)        P* ∈ R^{P×D} shared,  U ∈ R^{P×R} and V ∈ R^{R×D} the task's own

Source: Wang et al. 2023, arXiv:2303.02861, sections 3.1 and 3.3; the tensors and the ways to begin
from a source prompt are PEFT's. A run trains one target task: rows carry no task, and virtual
tokens are read once for a batch. Without a source, P* begins as the embeddings of an
instruction and U V as ones, so p is the instruction itself; PEFT's begin near zero, where a
norm makes noise of them.

Dimension key: P virtual tokens, D hidden size, R ranks, K tasks of the source.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _peft_format, _prompts
from domainwright.methods._virtual import VirtualTokens, embedded, width
from domainwright.models.base import Base

PEFT_TYPE = "MULTITASK_PROMPT_TUNING"


@dataclass(frozen=True, slots=True, kw_only=True)
class MultitaskPromptSettings:
    rows: int = 20
    """Virtual tokens. With a source, its number holds."""
    ranks: int = 1
    """R. With a source, its number holds."""
    text: str = _prompts.INSTRUCTION
    """An instruction of the domain, where there is no source; repeated or cut to `rows` tokens."""
    source: str | None = None
    """Adapter folder with the prompt of earlier tasks, as PEFT saves it, found from where the run
    is started. None: begin from `text`."""
    start: Literal["average", "exact", "shared"] = "average"
    """What is taken from the source: P* with the mean of its tasks' U and V, with those of
    `source_task`, or P* alone."""
    source_task: int = 0
    """Number of the source's task for `start: exact`, from 0."""

    def __post_init__(self) -> None:
        for name in ("rows", "ranks"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"multitask_prompt.{name} is {getattr(self, name)}; nothing is learned so.",
                    f"give a number such as {20 if name == 'rows' else 1}.",
                )
        if self.start not in ("average", "exact", "shared"):
            raise ConfigError(
                f"multitask_prompt.start is {self.start!r}.", "write average, exact or shared."
            )
        if self.source_task < 0:
            raise ConfigError(
                f"multitask_prompt.source_task is {self.source_task}.", "count tasks from 0."
            )


class MultitaskPromptAdapter(VirtualTokens):
    """P* (P, D), U (P, R) and V (R, D), float32."""

    method, version = "multitask_prompt", 1

    def __init__(self, base: Base, settings: MultitaskPromptSettings) -> None:
        super().__init__(base, settings)
        size, device = width(base), base.device
        self.table = nn.Parameter(torch.zeros(settings.rows, size, device=device))
        self.cols = nn.Parameter(torch.zeros(settings.rows, settings.ranks, device=device))
        self.rows_of_task = nn.Parameter(torch.zeros(settings.ranks, size, device=device))

    def rows(self) -> Tensor:
        return self.table * (self.cols @ self.rows_of_task)

    def stored(self) -> dict[str, Tensor]:
        return {
            "prompt_embeddings": self.table.data,
            "prefix_task_cols": self.cols.data[None],
            "prefix_task_rows": self.rows_of_task.data[None],
        }

    def save(self, folder: Path) -> None:
        config = self.peft_config(PEFT_TYPE) | {
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "tokenizer_name_or_path": None,
            "prompt_tuning_init_state_dict_path": None,
            "prompt_tuning_init_task": 0,
            "num_ranks": self.settings.ranks,
            "num_tasks": 1,
        }
        _peft_format.write(folder, config, self.stored(), self.notes(), prefix="")


@METHODS.register
class MultitaskPrompt:
    """A prompt shared by tasks, and one task's share of it."""

    Settings = MultitaskPromptSettings
    version = 1
    summary = "Virtual tokens shared by tasks, times one task's own; may start from earlier tasks."
    parameter_formula = "rows · hidden size + ranks · (rows + hidden size)"
    peft_type: ClassVar[str | None] = PEFT_TYPE
    identity_start = False
    random_start = False
    learning_rate: ClassVar = {"small": 1e-2, "large": 3e-2}
    """Below and from one billion parameters; methods.md §15.3, not swept."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    @staticmethod
    def build(base: Base, settings: MultitaskPromptSettings, seed: int) -> MultitaskPromptAdapter:
        """A fresh adapter for one target task.

        Raises:
            CapabilityError: the base has no attention that takes more keys.
            DataError: the source is no such folder, or of another base.
        """
        _prompts.attending(base, "multitask_prompt")
        if settings.source is not None:
            return _from_source(base, settings, Path(settings.source), seed)
        adapter = MultitaskPromptAdapter(base, settings)
        ids = _prompts.tokens(base, settings.text, settings.rows, "multitask_prompt")
        with torch.no_grad():
            adapter.table.copy_(embedded(base, ids))
        _begin(adapter, seed)
        return adapter

    @staticmethod
    def load(base: Base, folder: Path) -> MultitaskPromptAdapter:
        """An adapter of one task, saved by us or by PEFT.

        Raises:
            DataError: another base, another type, several tasks, a tensor of another shape.
        """
        config, tensors, noted = _peft_format.read(folder)
        _peft_format.check_base(noted, base.sha256, base.source.name, folder)
        _peft_format.check_type(config, PEFT_TYPE, "multitask_prompt@1", folder)
        if config["num_tasks"] != 1:
            raise DataError(
                f"{folder} has {config['num_tasks']} tasks, and an answer needs to know which.",
                "train a target task from it: `methods: {multitask_prompt: {source: FOLDER}}`.",
            )
        sizes = {"rows": int(config["num_virtual_tokens"]), "ranks": int(config["num_ranks"])}
        settings = MultitaskPromptSettings(**noted.get("settings", {}) | sizes)
        adapter = MultitaskPromptAdapter(base, settings)
        _peft_format.fill(adapter.stored(), tensors, folder)
        return adapter


def _begin(adapter: MultitaskPromptAdapter, seed: int) -> None:
    """U V = ones: the first rank is ones, and the others are noise times nothing."""
    source = torch.Generator().manual_seed(derive(seed, "multitask_prompt"))
    with torch.no_grad():
        noise = 0.02 * torch.randn(adapter.rows_of_task.shape, generator=source)
        adapter.rows_of_task.copy_(noise)
        adapter.rows_of_task[0] = 1.0
        adapter.cols.zero_()[:, 0] = 1.0


def _from_source(
    base: Base, settings: MultitaskPromptSettings, folder: Path, seed: int
) -> MultitaskPromptAdapter:
    """A target task that begins at the prompt of earlier tasks."""
    config, tensors, noted = _peft_format.read(folder)
    _peft_format.check_base(noted, base.sha256, base.source.name, folder)
    _peft_format.check_type(config, PEFT_TYPE, "multitask_prompt@1", folder)
    rows, ranks, tasks = (
        int(config[key]) for key in ("num_virtual_tokens", "num_ranks", "num_tasks")
    )
    if settings.start == "exact" and settings.source_task >= tasks:
        raise ConfigError(
            f"multitask_prompt.source_task is {settings.source_task}, and {folder} has {tasks} "
            "tasks.",
            f"give a number from 0 to {tasks - 1}.",
        )
    adapter = MultitaskPromptAdapter(base, replace(settings, rows=rows, ranks=ranks))
    shared = {
        "prompt_embeddings": adapter.table.data,
        "prefix_task_cols": torch.zeros(tasks, rows, ranks),
        "prefix_task_rows": torch.zeros(tasks, ranks, width(base)),
    }
    _peft_format.fill(shared, tensors, folder)
    if settings.start == "shared":
        _begin(adapter, seed)
        return adapter
    one = slice(settings.source_task, settings.source_task + 1)
    chosen = one if settings.start == "exact" else slice(None)
    with torch.no_grad():
        adapter.cols.copy_(shared["prefix_task_cols"][chosen].mean(0))
        adapter.rows_of_task.copy_(shared["prefix_task_rows"][chosen].mean(0))
    return adapter
