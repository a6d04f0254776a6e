"""Prompt tuning: learn the embeddings of virtual tokens that stand before every text.

    X' = [p_1 … p_P ; embedding(x)]        p ∈ R^{P×D}

Source: Lester et al. 2021, arXiv:2104.08691, section 2. How they are read is written in
`_virtual`. They start as the embeddings of an instruction's tokens.

Dimension key: P virtual tokens, D hidden size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from domainwright.core.errors import ConfigError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _peft_format, _prompts
from domainwright.methods._virtual import VirtualTokens, embedded, width
from domainwright.models.base import Base


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSettings:
    rows: int = 20
    """Virtual tokens."""
    start: Literal["text", "words"] = "text"
    """Their first values: the embeddings of `text`, or of words of the vocabulary by chance."""
    text: str = _prompts.INSTRUCTION
    """An instruction of the domain; repeated or cut to as many tokens as there are rows."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError(
                f"prompt.rows is {self.rows}; without a row nothing is learned.",
                "give a number such as 20.",
            )
        if self.start not in ("text", "words"):
            raise ConfigError(f"prompt.start is {self.start!r}.", "write text or words.")


class PromptAdapter(VirtualTokens):
    """One float32 table (P, D)."""

    method, version = "prompt", 1

    def __init__(self, base: Base, settings: PromptSettings) -> None:
        super().__init__(base, settings)
        self.table = nn.Parameter(torch.zeros(settings.rows, width(base), device=base.device))

    def rows(self) -> Tensor:
        return self.table

    def stored(self) -> dict[str, Tensor]:
        return {"prompt_embeddings": self.table.data}

    def save(self, folder: Path) -> None:
        config = self.peft_config("PROMPT_TUNING") | {
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "tokenizer_name_or_path": None,
        }
        _peft_format.write(folder, config, self.stored(), self.notes(), prefix="")


@METHODS.register
class Prompt:
    """Learned virtual tokens."""

    Settings = PromptSettings
    version = 1
    summary = "Learned virtual tokens before every text; tiny, and weak on small bases."
    parameter_formula = "rows · hidden size"
    peft_type: ClassVar[str | None] = "PROMPT_TUNING"
    identity_start = False
    random_start = False
    learning_rate: ClassVar = {"small": 1e-2, "large": 3e-2}
    """Below and from one billion parameters; methods.md §15.3, swept in docs/defaults.md."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    @staticmethod
    def build(base: Base, settings: PromptSettings, seed: int) -> PromptAdapter:
        """A fresh adapter.

        Raises:
            CapabilityError: the base has no attention that takes more keys.
        """
        adapter = PromptAdapter(base, settings)
        ids = _prompts.tokens(base, settings.text, settings.rows, "prompt")
        if settings.start == "words":
            source = torch.Generator().manual_seed(derive(seed, "prompt"))
            ids = torch.randint(base.vocabulary, (settings.rows,), generator=source).tolist()
        with torch.no_grad():
            adapter.table.copy_(embedded(base, ids))
        return adapter

    @staticmethod
    def load(base: Base, folder: Path) -> PromptAdapter:
        """An adapter saved by us or by PEFT.

        Raises:
            DataError: another base, another type, a tensor of another shape.
        """
        config, tensors, noted = _peft_format.read(folder)
        _peft_format.check_base(noted, base.sha256, base.source.name, folder)
        _peft_format.check_type(config, "PROMPT_TUNING", "prompt@1", folder)
        known = noted.get("settings", {}) | {"rows": int(config["num_virtual_tokens"])}
        adapter = PromptAdapter(base, PromptSettings(**known))
        _peft_format.fill(adapter.stored(), tensors, folder)
        return adapter
