"""A strategy that answers questions, one at a time: what `load_run` opens."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from domainwright.core.errors import DataError, UnknownName
from domainwright.core.records import Chat, Extraction, Message, Row
from domainwright.curate.tagged import Kinds
from domainwright.evaluate.entities import tagged, tags_words
from domainwright.infer.generate import answer
from domainwright.maths.listed import listed
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.prompting._sources import PromptSettings, ask
from domainwright.studies._gate import Gate, input_of
from domainwright.studies._opened import open_adapter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    passages: tuple[str, ...]
    """What was quoted in the prompt."""
    given_by: Literal["adapter", "base"]


@dataclass
class Run:
    """A strategy that answers: a base, maybe an adapter, a prompting strategy, a gate."""

    base: Base
    adapter: Adapter | None
    prompter: object | None
    settings: PromptSettings
    strategy: str
    gate: Gate | None = None
    """None: the adapter, where there is one, answers everything."""
    kinds: Kinds | None = None
    """Types of entities that a text is searched for; None: what is asked is a question."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Task -> folder of its own adapter; `adapter` answers what is of none of them."""

    def for_task(self, task: str) -> "Run":
        """The run as it answers what is of one task.

        Raises:
            UnknownName: it has no adapter for such a task.
        """
        if task not in self.adapters:
            known = ", ".join(self.adapters)
            raise UnknownName(
                f"{self.strategy} has no adapter for a task {task!r}.",
                f"use one of: {known}." if known else "leave the task out: it has one for all.",
            )
        return replace(self, adapter=open_adapter(self.base, self.adapters[task]), adapters={})

    def uses_adapter(self, row: Row) -> bool:
        """Whether the adapter answers; with a gate, only what belongs to the domain."""
        if self.adapter is None:
            return False
        return self.gate is None or self.gate.passes(input_of(row))

    def parted(
        self, by_adapter: Sequence[bool], ask: Callable[[Sequence[int]], Sequence[T]]
    ) -> list[T]:
        """What `ask` finds of each place: with the adapter where it is to answer, else without."""
        found = dict[int, T]()
        for on in (True, False):
            places = [n for n, own in enumerate(by_adapter) if own is on]
            if places:
                with self.adapter.attached() if self.adapter and on else nullcontext():
                    found.update(zip(places, ask(places), strict=True))
        return [found[n] for n in range(len(by_adapter))]

    def _row(self, question: str, history: Sequence[Message]) -> Chat:
        """What is asked as a row; of a run that finds entities, the text to be searched."""
        if self.kinds:
            row = self.kinds.question(question)
            return replace(row, messages=(*history, *row.messages))
        turns = (*history, Message("user", question), Message("assistant", ""))
        return Chat(id="chat", group="chat", file="", line=0, messages=turns)

    def chat(
        self,
        question: str,
        *,
        history: Sequence[Message] = (),
        new_tokens: int = 200,
        bare: bool = False,
    ) -> str:
        """The answer to `question`; with `bare`, of the untouched base."""
        return self.ask(question, history=history, new_tokens=new_tokens, bare=bare)[0]

    def ask(
        self,
        question: str,
        *,
        history: Sequence[Message] = (),
        new_tokens: int = 200,
        bare: bool = False,
    ) -> tuple[str, tuple[str, ...]]:
        """(answer, passages quoted)."""
        reply = self.reply(question, history=history, new_tokens=new_tokens, bare=bare)
        return reply.text, reply.passages

    def reply(
        self,
        question: str,
        *,
        history: Sequence[Message] = (),
        new_tokens: int = 200,
        bare: bool = False,
    ) -> Reply:
        """The answer, what it quotes, and who gave it.

        Raises:
            DataError: the conversation is longer than the base can read.
        """
        row = self._row(question, history)
        if bare or self.prompter is None:
            prompt = ask(row, self.settings)
        else:
            prompt = self.prompter.prompt(row)  # type: ignore[attr-defined]
        adapter = self.adapter if not bare and self.uses_adapter(row) else None
        with adapter.attached() if adapter else nullcontext():
            if isinstance(row, Extraction) and tags_words(self.base):
                (said,), _, _ = tagged(self.base, [row])
                return Reply(listed(row.words, said.spans), (), "adapter")
            ids = self.base.template.prompt(prompt.messages)
            room = self.base.context - new_tokens
            if len(ids) > room:
                raise DataError(
                    f"The conversation has {len(ids)} tokens; {room} fit.",
                    "start a new conversation.",
                )
            given = answer(self.base, [ids], new_tokens=new_tokens)[0]
        return Reply(given.text, prompt.passages, "base" if adapter is None else "adapter")
