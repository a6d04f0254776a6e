"""What prompting strategies may draw on, and the one context budget they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from domainwright.core.errors import ConfigError
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Chat, Choice, Document, Extraction, Message, Row
from domainwright.models.encoder import Encoder
from domainwright.models.forms import Prompt, choice_prompt

MARKERS = 12
"""Tokens that a template writes around a question and its answer; SmolLM2's ChatML takes 11."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSettings:
    """How prompts are filled. One budget for examples and passages alike."""

    context_tokens: int = 640
    """Most tokens that examples or passages may add to a question."""
    examples: int = 4
    """Most training rows shown by few_shot."""
    passages: int = 3
    """Most passages quoted by rag."""
    train_share: float | None = None
    """Share of the training rows that show their passages, where a study asks METHOD+rag, in
    [0, 1]. None: half of them."""
    instruction: str | None = None
    """System turn of every prompt. None: the domain's instruction, or none."""

    def __post_init__(self) -> None:
        if self.train_share is not None and not 0 <= self.train_share <= 1:
            raise ConfigError(
                f"prompting.train_share is {self.train_share}, outside [0, 1].",
                "give a share of the training rows such as 0.5.",
            )
        for name in ("context_tokens", "examples", "passages"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"prompting.{name} is {getattr(self, name)}.", "give a whole number from 1."
                )


COUNTED = 2**14
"""Texts whose number of tokens is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything a strategy may use. Test rows are never among it."""

    examples: Sequence[Chat | Choice]
    documents: Sequence[Document]
    settings: PromptSettings
    count_tokens: Callable[[str], int]
    listen: Listener = quiet
    vectors: Path | None = None
    """Folder that keeps sentence vectors, so that they are made once per study."""
    development: Sequence[Row] = ()
    """Rows on which a strategy may choose between prompts."""
    losses: Callable[[Sequence[Row], Sequence[Prompt]], Sequence[float]] | None = None
    """Nats per token of each row's right answer after its prompt."""
    tuned: Callable[[], Encoder] | None = None
    """Trains the study's own sentence encoder, or reads it back."""

    def __post_init__(self) -> None:
        # Whatever has no room is met again with every item: long rows would be tokenised 500 times.
        object.__setattr__(self, "count_tokens", lru_cache(COUNTED)(self.count_tokens))


def ask(
    row: Row,
    settings: PromptSettings,
    *,
    before: Sequence[Message] = (),
    lead: str = "",
    passages: tuple[str, ...] = (),
    examples: tuple[str, ...] = (),
) -> Prompt:
    """The prompt of one item, for conversations and choices alike.

    Args:
        before: turns shown ahead of the question (conversations).
        lead: text put ahead of the question; where the prompt is one text, examples too.
    """
    if isinstance(row, Choice):
        over = f"{row.ask}\n" if row.ask and row.delimiter is None else row.ask or ""
        text = _instruction(settings) + over + lead + choice_prompt(row)
        return Prompt(text=text, passages=passages, examples=examples)
    if not isinstance(row, Chat):
        return Prompt()
    own = list(row.messages[:-1])
    if row.literal:
        head = "".join(m.content for m in own if m.role == "system")
        text = _instruction(settings) + head + lead + row.question
        asked = (Message("text", text),)
        return Prompt(messages=asked, text=text, passages=passages, examples=examples)
    system = [m for m in own if m.role == "system"]
    if not system:
        said = (settings.instruction, row.ask if isinstance(row, Extraction) else None)
        system = [Message("system", "\n".join(x for x in said if x))] if any(said) else []
    turns = [m for m in own if m.role != "system"]
    if lead:
        turns[-1] = Message("user", lead + turns[-1].content)
    return Prompt(messages=(*system, *before, *turns), passages=passages, examples=examples)


def _instruction(settings: PromptSettings) -> str:
    """What stands ahead of a prompt that is one text."""
    return f"{settings.instruction}\n" if settings.instruction else ""


def question_of(row: Row) -> str:
    """What retrieval searches for."""
    if isinstance(row, Choice):
        return f"{row.context}\n{row.question}" if row.context else row.question
    return row.question if isinstance(row, Chat) else ""
