"""How each kind of row is written down for the model: one place for training and scoring.

Choices follow lm-evaluation-harness: plain text, no chat template, the continuation is
" " + choice. What is scored is written exactly as it was trained. A text to be labelled is written
as "Text: …" and "Label:", which a small base completes better than a question (LOG.md, 2026-11-22).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from domainwright.core.records import Chat, Choice, Extraction, Message, Row, Text
from domainwright.models.lesson import Lesson
from domainwright.models.template import Encoded, Template


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """How one item is asked. Made by a prompting strategy, read by a task."""

    messages: tuple[Message, ...] = ()
    """For conversations."""
    text: str = ""
    """For what is asked in one text: everything up to the choice or the answer."""
    passages: tuple[str, ...] = ()
    """What retrieval quoted, as "title: text"."""
    examples: tuple[str, ...] = ()
    """Ids of the training rows shown."""


def choice_prompt(row: Choice) -> str:
    """The question as text, up to where the choice follows; see `offered`."""
    if row.delimiter is not None:
        return row.context + row.question
    context = f"{row.context.strip()}\n" if row.context.strip() else ""
    asked, given = _called(row)
    return f"{context}{asked}: {row.question.strip()}\n{given}:"


def offered(row: Choice) -> list[str]:
    """The choices as they follow the prompt: after one space, or after the row's own delimiter."""
    between = " " if row.delimiter is None else row.delimiter
    return [between + choice for choice in row.choices]


def in_one_text(row: Row) -> bool:
    """Whether the row's prompt is one text, which examples and passages stand ahead of."""
    return isinstance(row, Choice) or (isinstance(row, Chat) and row.literal)


def solved(row: Chat | Choice) -> tuple[str, str]:
    """(question, right answer) as plain text, to be shown as an example in a prompt."""
    if isinstance(row, Choice) and row.delimiter is not None:
        return choice_prompt(row), row.choices[row.answer]
    if isinstance(row, Choice):
        prompt = choice_prompt(row).removesuffix(f"\n{_called(row)[1]}:")
        return prompt, row.choices[row.answer]
    return row.question, row.answer


def written(row: Chat | Choice) -> str:
    """A solved row ahead of another's prompt."""
    if isinstance(row, Choice) and row.delimiter is not None:
        return f"{choice_prompt(row)}{offered(row)[row.answer]}\n\n"
    if isinstance(row, Chat) and row.literal:
        return f"{row.question}{row.messages[-1].content}\n\n"
    question, answer = solved(row)
    return f"{question}\n{_called(row)[1]}: {answer}\n\n"


def _called(row: Chat | Choice) -> tuple[str, str]:
    """What question and answer are called in a prompt."""
    labelled = isinstance(row, Choice) and row.ask is not None
    return ("Text", "Label") if labelled else ("Question", "Answer")


def continuation(template: Template, context: str, text: str) -> tuple[list[int], list[int]]:
    """(context ids, continuation ids) with lm-evaluation-harness's split.

    Trailing spaces of the context move to the front of the continuation, the whole is
    tokenised at once, and the continuation is what follows the context's own tokens. An
    empty context becomes the begin- or end-of-sequence token.

    Source: lm_eval 0.4.13, api/model.py `_encode_pair`.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        text, context = context[-spaces:] + text, context[:-spaces]
    encode = template.tokenizer
    if not context:
        start = encode.bos_token_id if encode.bos_token_id is not None else encode.eos_token_id
        return [start], template.tokens(text)
    before = encode(context).input_ids
    return before, encode(context + text).input_ids[len(before) :]


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One training document, tokenised."""

    id: str
    ids: list[int]
    supervised: list[bool]
    """True where the token is predicted with loss. The first token never is."""
    cut: int = 0
    """Tokens beyond the length limit, not in `ids`."""
    conversation: bool = False
    """True when the row ends with an end-of-turn token that the model must learn."""
    file: str = ""
    line: int = 0
    """Where the row comes from, for messages."""
    lesson: Lesson | None = None
    """What a teacher says about the supervised tokens, where the run has one."""
    labels: tuple[int, ...] | None = None
    """Instead of the next token, what a head says at each supervised token: the label's number."""
    classes: int = 0
    """How many labels there are."""
    task: str = ""
    """Which of a run's tasks it belongs to."""
    label: str = ""
    """What it shares an epoch by instead of its task, where labels are read equally often."""
    weight: float = 1.0
    """How much it counts where a state is chosen by it."""

    @property
    def targets(self) -> int:
        return sum(self.supervised[1:]) if self.labels is None else len(self.labels)


def encode_rows(template: Template, rows: Sequence[Row], max_tokens: int) -> list[TrainRow]:
    """Rows as training documents of at most `max_tokens` tokens.

    A text longer than that becomes several documents. A conversation is cut at the limit and
    says how much was lost in `cut`; whoever trains decides what to do about it.
    """
    encoded: list[TrainRow] = []
    for row in rows:
        if isinstance(row, Chat):
            whole = template.conversation(row.messages)
            encoded.append(_limit(row, whole, max_tokens, conversation=True))
        elif isinstance(row, Choice):
            before, after = continuation(template, choice_prompt(row), offered(row)[row.answer])
            marks = [False] * len(before) + [True] * len(after)
            encoded.append(_limit(row, Encoded(before + after, marks), max_tokens))
        elif isinstance(row, Text):
            ids = template.tokenizer(row.text).input_ids
            for part, start in enumerate(range(0, len(ids), max_tokens)):
                piece = ids[start : start + max_tokens]
                # A piece of one token has nothing to predict.
                if len(piece) > 1:
                    encoded.append(TrainRow(f"{row.id}#{part}", piece, [True] * len(piece)))
    return encoded


def labelled_rows(
    template: Template, rows: Sequence[Choice], labels: Sequence[str], max_tokens: int
) -> list[TrainRow]:
    """Choices as documents whose last token has the label: the question as it is scored.

    Args:
        labels: what a head knows; every row's right choice is one of them.
    """
    encoded = []
    for row in rows:
        ids = template.tokenizer(choice_prompt(row)).input_ids
        marks = [False] * (len(ids) - 1) + [True]
        document = _limit(row, Encoded(ids, marks), max_tokens)
        number = labels.index(row.choices[row.answer])
        encoded.append(replace(document, labels=(number,), classes=len(labels)))
    return encoded


def tagged_row(
    template: Template, name: str, words: Sequence[str], tags: Sequence[int], classes: int
) -> TrainRow:
    """Words with a tag each as a document. The tag sits on a word's last token, the first that a
    causal model reads with the whole word behind it."""
    ids, supervised = word_tokens(template, words)
    return TrainRow(name, ids, supervised, labels=tuple(tags), classes=classes)


def word_tokens(template: Template, words: Sequence[str]) -> tuple[list[int], list[bool]]:
    """(ids of a sentence, True at the last token of each word)."""
    ids: list[int] = []
    last: list[bool] = []
    for number, word in enumerate(words):
        own = template.tokens(word if number == 0 else " " + word)
        # A tokenizer without bytes may know no sign of a word.
        own = own or [template.tokenizer.unk_token_id or template.tokenizer.eos_token_id]
        ids += own
        last += [False] * (len(own) - 1) + [True]
    return ids, last


def tagged_rows(
    template: Template, rows: Sequence[Extraction], tags: Sequence[str], max_tokens: int
) -> list[TrainRow]:
    """Sentences as documents with a tag for every word: the text alone, without a prompt.

    Args:
        tags: what a head knows, those of all rows among it.
    """
    encoded = []
    for row in rows:
        document = _limit(row, Encoded(*word_tokens(template, row.words)), max_tokens)
        numbers = tuple(map(tags.index, row.tags[: sum(document.supervised)]))
        encoded.append(replace(document, labels=numbers, classes=len(tags)))
    return encoded


def _limit(row: Row, whole: Encoded, max_tokens: int, *, conversation: bool = False) -> TrainRow:
    return TrainRow(
        row.id,
        whole.ids[:max_tokens],
        whole.supervised[:max_tokens],
        cut=max(0, len(whole.ids) - max_tokens),
        conversation=conversation,
        file=row.file,
        line=row.line,
    )
