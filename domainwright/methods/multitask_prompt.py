"""Multitask prompt tuning: one task's share of a prompt that several tasks have in common.

    p_k = P* ⊙ (U_k V_k)        P* ∈ R^{P×D} shared,  U_k ∈ R^{P×R} and V_k ∈ R^{R×D} task k's own

Source: Wang et al. 2023, arXiv:2303.02861, sections 3.1 and 3.3; the tensors and the ways to begin
from a source prompt are PEFT's. `multitask_prompt+tasks` is both stages: P* and all U_k, V_k are
learned side by side, every row read after its own task's p_k, and then each task goes on alone from
its p_k. The first stage learns from the rows alone, not from prompts trained before for each task
as in the paper. `multitask_prompt` itself is the second stage: one prompt for all rows, from a
`source` of earlier tasks. Without one, P* begins as the embeddings of an instruction and U V as
ones, so p is the instruction itself; PEFT's begin near zero, where a norm makes noise of them.

Dimension key: P virtual tokens, D hidden size, R ranks, K tasks of the source.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

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
    """P* (P, D), U (K, P, R) and V (K, R, D), float32."""

    method, version = "multitask_prompt", 1

    def __init__(self, base: Base, settings: MultitaskPromptSettings) -> None:
        super().__init__(base, settings)
        size, device = width(base), base.device
        self.table = nn.Parameter(torch.zeros(settings.rows, size, device=device))
        self.cols = nn.Parameter(torch.zeros(1, settings.rows, settings.ranks, device=device))
        self.rows_of_task = nn.Parameter(torch.zeros(1, settings.ranks, size, device=device))
        self._read: int | None = None

    def learn_tasks(self, tasks: Sequence[str]) -> None:
        """Learn a share for each of them, all from the one that there is."""
        self.tasks = tuple(tasks)
        self.cols = nn.Parameter(self.cols.detach().repeat(len(tasks), 1, 1))
        self.rows_of_task = nn.Parameter(self.rows_of_task.detach().repeat(len(tasks), 1, 1))

    @contextmanager
    def reading(self, task: str) -> Iterator[None]:
        before = self._read
        self._read = self.tasks.index(task) if task in self.tasks else None
        try:
            yield
        finally:
            self._read = before

    def rows(self) -> Tensor:
        """p of the task that is read; of none, the mean of all tasks' p."""
        chosen = slice(None) if self._read is None else slice(self._read, self._read + 1)
        return self.table * (self.cols[chosen] @ self.rows_of_task[chosen]).mean(0)

    def stored(self) -> dict[str, Tensor]:
        return {
            "prompt_embeddings": self.table.data,
            "prefix_task_cols": self.cols.data,
            "prefix_task_rows": self.rows_of_task.data,
        }

    def notes(self) -> dict[str, Any]:
        return {**super().notes(), **({"tasks": list(self.tasks)} if self.tasks else {})}

    def save(self, folder: Path) -> None:
        config = self.peft_config(PEFT_TYPE) | {
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "tokenizer_name_or_path": None,
            "prompt_tuning_init_state_dict_path": None,
            "prompt_tuning_init_task": 0,
            "num_ranks": self.settings.ranks,
            "num_tasks": len(self.cols),
        }
        _peft_format.write(folder, config, self.stored(), self.notes(), prefix="")


@METHODS.register
class MultitaskPrompt:
    """A prompt shared by tasks, and one task's share of it."""

    side_by_side = True
    """`+tasks` begins from an adapter that learned all tasks at once, each apart."""
    Settings = MultitaskPromptSettings
    version = 1
    summary = "Virtual tokens shared by tasks, times one task's own; may start from earlier tasks."
    parameter_formula = "rows · hidden size + ranks · (rows + hidden size)"
    peft_type: ClassVar[str | None] = PEFT_TYPE
    identity_start = False
    random_start = False
    learning_rate: ClassVar = {"small": 1e-2, "large": 3e-2}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
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
    def of_task(
        base: Base, settings: MultitaskPromptSettings, folder: Path, task: str, seed: int
    ) -> MultitaskPromptAdapter:
        """The adapter of one of the tasks that those in `folder` learned side by side."""
        tasks = _peft_format.read(folder)[2]["tasks"]
        alone = replace(settings, start="exact", source_task=tasks.index(task))
        return _from_source(base, alone, folder, seed)

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
        adapter.rows_of_task[:, 0] = 1.0
        adapter.cols.zero_()[..., 0] = 1.0


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
        adapter.cols.copy_(shared["prefix_task_cols"][chosen].mean(0, keepdim=True))
        adapter.rows_of_task.copy_(shared["prefix_task_rows"][chosen].mean(0, keepdim=True))
    return adapter
