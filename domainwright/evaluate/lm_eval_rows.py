"""The documents of lm-eval's tasks as rows: what a study learns from, and what it asks.

    multiple_choice    Choice   question: the prompt as lm-eval writes it; its own delimiter
    generate_until     Chat     the prompt, read as it stands, and the target behind it

A task's test documents are asked, or its validation documents where it has no test split. Learnt
are those of its training split, else of its few-shot split, else of its validation split, if that
is another than the one that is asked.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from domainwright.core.artifacts import sha256_json
from domainwright.core.errors import ConfigError, DataError
from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.records import Chat, Choice, Message, Row, SetAside
from domainwright.curate.read import ReadResult
from domainwright.evaluate.lm_eval_tasks import Tasks, foreign

CHOICES, WRITTEN = "multiple_choice", "generate_until"
"""Kinds of tasks of which rows can be made, as lm-eval calls them."""
INSTEAD = "name it under `evaluate.retention_tasks`, or ask it with: dw evaluate MODEL --task NAME"


@dataclass(frozen=True, slots=True)
class Document:
    """One document that is asked."""

    task: Any
    number: int
    """Its place among the documents asked, as lm-eval counts them."""
    contents: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRows:
    """What tasks hold, task by task."""

    train: tuple[ReadResult, ...]
    """Empty: not asked for."""
    test: tuple[ReadResult, ...]
    documents: Mapping[str, Document]
    """Id of a test row -> what it was made of."""


def task_rows(tasks: Tasks, *, train: bool, listen: Listener = quiet) -> TaskRows:
    """The rows of tasks that are all of one kind.

    Args:
        train: also what is learnt from.

    Raises:
        ConfigError: a task of another kind.
        DataError: a task without documents to learn from; a document that cannot be read.
    """
    _check_kinds(tasks.single)
    several = len(tasks.single) > 1
    learnt, asked = list[ReadResult](), list[ReadResult]()
    documents: dict[str, Document] = {}
    for number, (name, task) in enumerate(tasks.single.items(), 1):
        listen(Step("rows of tasks", number - 1, len(tasks.single)))
        with tasks.running():
            docs = list(task.eval_docs)
            found = _read(name, task, _asked_split(task), docs, several, asked=True)
            asked.append(found)
            documents |= {r.id: Document(task, r.line - 1, docs[r.line - 1]) for r in found.rows}
            if train:
                split, shown = _to_learn(name, task)
                learnt.append(_read(name, task, split, shown(), several, asked=False))
    return TaskRows(train=tuple(learnt), test=tuple(asked), documents=documents)


def kind_of(tasks: Tasks) -> str:
    """CHOICES or WRITTEN, of tasks that `task_rows` has read."""
    return str(next(iter(tasks.single.values())).OUTPUT_TYPE)


def literal(row: Chat) -> Chat:
    """A conversation as plain text: what is said before the answer, and the answer behind it."""
    said = "\n".join(m.content for m in row.messages[:-1])
    answer = Message("assistant", f"{_between(said, row.answer, ' ')}{row.answer}")
    return Chat(
        **{name: getattr(row, name) for name in Row.__slots__},
        messages=(Message("text", said), answer),
    )


def _check_kinds(tasks: Mapping[str, Any]) -> None:
    for name, task in tasks.items():
        kind = task.OUTPUT_TYPE
        if kind not in (CHOICES, WRITTEN):
            raise ConfigError(
                f"data.task: {name} is a {kind or 'mixed'} task, and a study can be about "
                "multiple_choice and generate_until tasks.",
                f"{INSTEAD}.",
            )
        if getattr(task, "multiple_input", 0):
            raise ConfigError(
                f"data.task: {name} puts its choices into the prompt, which no row can hold.",
                f"{INSTEAD}.",
            )
    kinds = {task.OUTPUT_TYPE: name for name, task in tasks.items()}
    if len(kinds) > 1:
        named = ", ".join(f"{name} is {kind}" for kind, name in kinds.items())
        raise ConfigError(
            f"data.task holds tasks of two kinds: {named}.", "name tasks of one kind, or one task."
        )


def _asked_split(task: Any) -> str:
    """As lm-eval's `eval_docs` chooses it."""
    return str(task.config.test_split or task.config.validation_split)


def _to_learn(name: str, task: Any) -> tuple[str, Callable[[], Iterable[Any]]]:
    """(split, its documents) that are learnt from."""
    config, asked = task.config, _asked_split(task)
    for split, docs in (
        (config.training_split, task.training_docs),
        (task.fewshot_cfg.split, task.fewshot_docs),
        (config.validation_split, task.validation_docs),
    ):
        if split is not None and split != asked:
            return str(split), docs
    raise DataError(
        f"data.task: {name} has no documents besides those of its split {asked!r}, which are "
        "asked.",
        "give rows to learn from with `data: {train: FILE}`.",
    )


def _read(
    name: str, task: Any, split: str, docs: Iterable[Any], several: bool, *, asked: bool
) -> ReadResult:
    file, rows, aside, contents = f"{name} ({split})", list[Row](), list[SetAside](), []
    make = _choice if task.OUTPUT_TYPE == CHOICES else _chat
    for number, doc in enumerate(docs):
        contents.append(json.dumps(doc, sort_keys=True, default=str))
        place: dict[str, Any] = {
            # Of what is asked, as `dw evaluate --task` names it.
            "id": f"{name}#{number}" if asked else f"{name}:{split}#{number}",
            "file": file,
            "line": number + 1,
        }
        with foreign(f"put document {number} of {file}", "correct its YAML file or its data."):
            made = make(task, doc, asked)
        if isinstance(made, str):
            aside.append(SetAside(**place, reason="no_right_choice", detail=made))
        else:
            kind, own = made
            topic = name if several else None
            rows.append(kind(**place, group=place["id"], topic=topic, **own))
    return ReadResult(
        file=file,
        sha256=sha256_json([str(task.VERSION), contents]),
        format=f"lm-eval {task.OUTPUT_TYPE}",
        columns={},
        records=len(contents),
        rows=rows,
        set_aside=aside,
        notes={},
    )


def _prompt(task: Any, doc: Any, asked: bool) -> tuple[str, str, str]:
    """(description ahead of all, the document's prompt, spaces that its answer begins with).

    What is asked is lm-eval's prompt sign for sign. What is learnt leaves spaces at its end to the
    answer, as a tokenizer and lm-eval's own pairs do.
    """
    prefix = task.doc_to_prefix(doc)
    whole = str(task.fewshot_context(doc, num_fewshot=0, gen_prefix=prefix))
    head = str(task.resolve_field(doc, task.config.description) or "")
    head = head if whole.startswith(head) else ""
    text = whole.removeprefix(head)
    bare = text if asked else text.rstrip(" ")
    return head, bare, text[len(bare) :]


def _choice(task: Any, doc: Any, asked: bool) -> tuple[type[Row], dict[str, Any]] | str:
    """(kind, fields) of a row; or why the document can be none."""
    head, text, spaces = _prompt(task, doc, asked)
    choices = [str(x) for x in task.doc_to_choice(doc)]
    target = task.doc_to_target(doc)
    first = target[0] if isinstance(target, list) and target else target
    place = choices.index(first) if isinstance(first, str) and first in choices else first
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(choices):
        return f"the right choice is {target!r}, and there are {len(choices)} choices"
    return Choice, {
        "question": text,
        "choices": tuple(choices),
        "answer": place,
        "ask": head or None,
        "delimiter": f"{spaces}{task.config.target_delimiter}",
    }


def _chat(task: Any, doc: Any, asked: bool) -> tuple[type[Row], dict[str, Any]] | str:
    """As `_choice`."""
    head, text, spaces = _prompt(task, doc, asked)
    target = task.doc_to_target(doc)
    if task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    answer = str(target[0] if isinstance(target, list) and target else target)
    between = spaces or _between(text, answer, task.config.target_delimiter)
    turns = [Message("system", head)] if head else []
    turns += [Message("text", text), Message("assistant", f"{between}{answer}")]
    return Chat, {"messages": tuple(turns)}


def _between(text: str, answer: str, delimiter: str) -> str:
    """What stands between a prompt and its answer, of which neither has spaces there."""
    return "" if text[-1:].isspace() or answer[:1].isspace() else delimiter
