"""Conversations to tokens, and which tokens are supervised.

Training and answering use this one renderer, so the template at training is the template
at inference. Supervised are the assistant's words and its end-of-turn token; everything
else, the headers included, carries no loss. Labels are masked by position, never by token
id: where pad = end-of-turn, masking by id would remove every end and the model would never
stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from domainwright.core.errors import DataError
from domainwright.core.records import Message

PLAIN = (
    "{% for m in messages %}{{ {'system': '', 'user': 'Question: ', 'assistant': 'Answer: '}"
    "[m.role] + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)
"""For bases without a chat template of their own."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One document: token ids, and True where the token is supervised."""

    ids: list[int]
    supervised: list[bool]


def _literal(messages: Sequence[Message]) -> bool:
    return any(m.role == "text" for m in messages)


class Template:
    """Renders for one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.own = bool(tokenizer.chat_template)
        """False when the base has no chat template and the plain one is used."""

    def render(self, messages: Sequence[Message], *, answer_next: bool) -> str:
        """The conversation as text; with `answer_next`, ready for the assistant's words."""
        if _literal(messages):
            end = self.tokenizer.eos_token or ""
            return "".join(m.content + (end if m.role == "assistant" else "") for m in messages)
        turns = [{"role": m.role, "content": m.content} for m in messages]
        extra = {} if self.own else {"chat_template": PLAIN}
        try:
            text: str = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=answer_next, **extra
            )
        except TemplateError as error:
            raise DataError(
                f"The base's chat template refuses this conversation: {error}.",
                "alternate user and assistant turns, and put a system turn first or leave it out.",
            ) from error
        return text

    def tokens(self, text: str) -> list[int]:
        """Rendered text to ids. Nothing is added: the template already wrote every marker."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the assistant answers."""
        text = self.render(messages, answer_next=True)
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=self._adds(messages, text)
        ).input_ids
        return ids

    def conversation(self, messages: Sequence[Message]) -> Encoded:
        """Ids of a whole conversation with every assistant turn supervised, end included.

        Each assistant turn is found by rendering the conversation up to its start and up to
        its end; both must be prefixes of the whole text, so a template that renders a turn
        differently once more turns follow is refused instead of mislabelled.

        Raises:
            DataError: no assistant turn, or the template is not prefix-stable.
        """
        whole = self.render(messages, answer_next=False)
        encoding = self.tokenizer(
            whole,
            add_special_tokens=self._adds(messages, whole),
            return_offsets_mapping=True,
        )
        supervised = [False] * len(encoding.input_ids)
        spans = [
            self._span(messages, i, whole) for i, m in enumerate(messages) if m.role == "assistant"
        ]
        for start, end in spans:
            for position, (a, b) in enumerate(encoding.offset_mapping):
                # A token that straddles the start belongs to the header: it is known at inference.
                if a >= start and a < end and b > a:
                    supervised[position] = True
        if not any(supervised):
            raise DataError(
                "The conversation has no supervised token.", "add an assistant turn with text."
            )
        ids: list[int] = list(encoding.input_ids)
        # The line break after the last end-of-turn teaches nothing and costs a token.
        last = max(i for i, on in enumerate(supervised) if on) + 1
        return Encoded(ids[:last], supervised[:last])

    def _adds(self, messages: Sequence[Message], text: str) -> bool:
        """Whether the tokenizer puts its own begin token ahead: of plain text that has none."""
        begin = self.tokenizer.bos_token
        return _literal(messages) and not (begin and text.startswith(begin))

    def _span(self, messages: Sequence[Message], index: int, whole: str) -> tuple[int, int]:
        """Character range of assistant turn `index` in `whole`, its end-of-turn included."""
        before = self.render(messages[:index], answer_next=True)
        after = self.render(messages[: index + 1], answer_next=False)
        content = messages[index].content.strip()
        if not (whole.startswith(after) and after.startswith(before)):
            raise DataError(
                "The base's chat template renders a turn differently when more turns follow, so "
                "the supervised tokens cannot be found.",
                "train on single-turn rows, or give the base a prefix-stable chat template.",
            )
        if content not in after[len(before) :]:
            raise DataError(
                "The base's chat template changes or drops the assistant's words.",
                "give the base a chat template that renders the answer as it is.",
            )
        # Spaces at the end of a plain prompt may share a token with the answer's first word.
        start = len(before.rstrip(" ")) if _literal(messages) else len(before)
        return start, len(before) + len(after[len(before) :].rstrip())

    @property
    def stops(self) -> set[int]:
        """Ids that end an answer: end-of-sequence and what the template closes a turn with."""
        found = {self.tokenizer.eos_token_id} - {None}
        probe = self.render([Message("user", "a"), Message("assistant", "b")], answer_next=False)
        ids = self.tokens(probe.rstrip())
        if ids and ids[-1] in self.tokenizer.all_special_ids:
            found.add(ids[-1])
        return found
