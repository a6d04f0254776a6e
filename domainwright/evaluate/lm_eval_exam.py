"""Test items of lm-eval's tasks: any prompt before the question, marks as lm-eval gives them.

Requests, filters and metrics are the task's own (`construct_requests`, `apply_filters`,
`process_results`); the prompt is the strategy's, and the model is ours. With the bare prompt every
mark is that of `dw evaluate MODEL --task NAME --shots 0`.

Source: lm_eval 0.4.13, evaluator.py (`evaluate`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from domainwright.core.errors import DataError
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Chat, Choice
from domainwright.evaluate._lm_eval_engine import Engine, longest
from domainwright.evaluate._lm_eval_results import DECIDING, UNREAD, alone, named
from domainwright.evaluate.lm_eval_rows import CHOICES, Document, kind_of
from domainwright.evaluate.lm_eval_tasks import Tasks, foreign
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.tasks.answers import reference_ids
from domainwright.models.base import Base
from domainwright.models.forms import Prompt

CODE = "correct the task's YAML file or its code."


@dataclass(frozen=True, slots=True)
class _Put:
    """One item as it is put: its requests, and what came of each."""

    document: Document
    requests: list[Any]
    replies: list[Any]
    """Of lm-eval's form, one for each request and repeat."""
    facts: dict[str, Any]
    """Fields of the item that follow from how it was answered."""


class TaskExam:
    """What `evaluate.tasks` registers for the user's own rows, for the rows of lm-eval's tasks."""

    def __init__(self, tasks: Tasks, documents: Mapping[str, Document]) -> None:
        """Find what the tasks' items can be marked by.

        Args:
            documents: id of a row -> what it was made of.

        Raises:
            DataError: by nothing that single items have; or a task's own code fails.
        """
        self._tasks, self._documents = tasks, documents
        self.version = tasks.rules()
        self.lm_eval = version("lm_eval")
        self.kind = kind_of(tasks)
        self.versions = {name: str(task.VERSION) for name, task in tasks.single.items()}
        self._given, self.scores = self._metrics()

    @property
    def new_tokens(self) -> int:
        """Longest answer of any of the tasks; 0 for choices."""
        if self.kind == CHOICES:
            return 0
        return max(longest(t.config.generation_kwargs) for t in self._tasks.single.values())

    def run(
        self,
        base: Base,
        rows: Sequence[Chat | Choice],
        prompts: Sequence[Prompt],
        *,
        decide_by: str,
        new_tokens: int = 0,
        listen: Listener = quiet,
        stage: str = "task",
    ) -> list[Item]:
        """Ask and mark every row.

        Raises:
            ConfigError, CapabilityError: as `Tasks.ask`.
            DataError: an item has no mark of that name.
        """
        engine, begun = Engine(base, listen, stage), time.perf_counter()
        with self._tasks.running():
            with foreign("put what is asked", CODE):
                made = [self._requests(*pair) for pair in zip(rows, prompts, strict=True)]
            if self.kind == CHOICES:
                put = _chosen(engine, rows, made, decide_by)
            else:
                put = _written(engine, base, rows, made)
            seconds = (time.perf_counter() - begun) / max(1, len(rows))
            with foreign("mark the answers", CODE):
                found = self._marked(put)
        # Strategies are compared by means over all items: by what every item has.
        everywhere = set(self._given).intersection(*(metrics for metrics, _ in found))
        items = []
        for row, prompt, one, (metrics, filtered) in zip(rows, prompts, put, found, strict=True):
            if decide_by not in everywhere:
                raise DataError(
                    f"lm-eval gives {row.id} no {decide_by}, only {', '.join(metrics)}.",
                    "decide by another metric with `evaluate: {score: NAME}`.",
                )
            said = filtered.get(decide_by.partition(",")[2] or "none")
            parsed = self.kind == CHOICES or (bool(one.facts["reply"]) and said != UNREAD)
            items.append(
                Item(
                    id=row.id,
                    group=row.group,
                    question=row.question,
                    mark=Mark(metrics[decide_by], parsed),
                    metrics={name: x for name, x in metrics.items() if name in everywhere},
                    seconds=seconds,
                    passages=prompt.passages,
                    **one.facts,
                )
            )
        return items

    def _requests(self, row: Chat | Choice, prompt: Prompt) -> tuple[Document, list[Any]]:
        document = self._documents[row.id]
        return document, _constructed(document, prompt.text)

    def _marked(self, put: Sequence[_Put]) -> list[tuple[dict[str, float], dict[str, Any]]]:
        """(metric -> value, filter -> what it made of the first reply) of every item."""
        found: list[tuple[dict[str, float], dict[str, Any]]] = [({}, {}) for _ in put]
        # Filters see all items of a task at once.
        for task in {id(x.document.task): x.document.task for x in put}.values():
            places = [n for n, x in enumerate(put) if x.document.task is task]
            task._instances = [request for n in places for request in put[n].requests]
            for n in places:
                replies = iter(put[n].replies)
                for request in put[n].requests:
                    request.resps = [next(replies) for _ in range(request.repeats)]
            task.apply_filters()
            for kind in task._instances[0].filtered_resps:
                for n in places:
                    results = [request.filtered_resps[kind] for request in put[n].requests]
                    marks = task.process_results(put[n].document.contents, results)
                    found[n][1][kind] = results[0]
                    for metric, value in marks.items():
                        if (number := alone(metric, value)) is not None:
                            found[n][0][named(metric, kind)] = number
        return found

    def _metrics(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(metrics of single items that all tasks have, those by which a study can be decided).

        Found by marking the right answer to the first document of each task. What decides lies
        within [0, 1] there, and higher is better.
        """
        given: list[dict[str, float]] = []
        wrong = set[str]()
        for name, task in self._tasks.single.items():
            document = next((x for x in self._documents.values() if x.task is task), None)
            if document is None:
                continue
            with foreign(f"mark an answer to {name}", CODE), self._tasks.running():
                ((marks, _),) = self._marked([_right(document)])
            given.append(marks)
            better = task.higher_is_better()
            wrong |= {m for m in marks if better.get(m.partition(",")[0]) is False}
            wrong |= {m for m, mark in marks.items() if not 0 <= mark <= 1}
        shared = [m for m in given[0] if all(m in own for own in given)] if given else []
        known = [m for m in shared if m not in wrong]
        if not known:
            named_tasks = ", ".join(self._tasks.names)
            raise DataError(
                f"data.task: {named_tasks} has no metric of single items between 0 and 1.",
                "choose a task with acc, acc_norm or exact_match.",
            )
        return tuple(shared), tuple(sorted(known, key=_rank))


def _rank(metric: str) -> int:
    bare = metric.partition(",")[0]
    return DECIDING.index(bare) if bare in DECIDING else len(DECIDING)


def _constructed(document: Document, text: str) -> list[Any]:
    """The requests of a document behind a prompt."""
    task = document.task
    made = task.construct_requests(
        doc=document.contents,
        ctx=text,
        metadata=(task.config["task"], document.number, task.config.repeats),
    )
    return list(made) if isinstance(made, list) else [made]


def _right(document: Document) -> _Put:
    """A document with the right answer, without asking anyone."""
    task, doc = document.task, document.contents
    requests = _constructed(document, "")
    target = task.doc_to_target(doc)
    first = target[0] if isinstance(target, list) and target else target
    if task.OUTPUT_TYPE == CHOICES:
        choices = task.doc_to_choice(doc)
        place = choices.index(first) if isinstance(first, str) else first
        replies: list[Any] = [
            (-1.0 if n == place else -9.0, n == place) for n in range(len(requests))
        ]
    else:
        given = task.doc_to_choice(doc)[first] if task.config.doc_to_choice is not None else first
        replies = [str(given)] * len(requests)
    repeated = [
        x for x, request in zip(replies, requests, strict=True) for _ in range(request.repeats)
    ]
    return _Put(document, requests, repeated, {})


def _repeated(requests: Sequence[Any]) -> list[Any]:
    return [request for request in requests for _ in range(request.repeats)]


def _chosen(
    engine: Engine,
    rows: Sequence[Any],
    made: Sequence[tuple[Document, list[Any]]],
    decide_by: str,
) -> list[_Put]:
    found = iter(engine.scored([x for _, own in made for x in _repeated(own)]))
    put = []
    for row, (document, requests) in zip(rows, made, strict=True):
        mine = [next(found) for _ in _repeated(requests)]
        # Requests without the prompt may stand behind those of the choices.
        first = [mine[n * requests[0].repeats] for n in range(len(row.choices))]
        logs = np.array([x.log_probability for _, x in first])
        lengths = [len(c) for c in row.choices] if decide_by == "acc_norm" else 1.0
        read, right = first[row.answer]
        facts = {
            "reference": row.choices[row.answer],
            "reply": row.choices[int((logs / lengths).argmax())],
            "loss": -right.log_probability,
            "loss_tokens": right.tokens,
            "tokens_in": len(read.context),
            "tokens_out": sum(x.tokens for _, x in first),
        }
        replies = [(x.log_probability, x.greedy) for _, x in mine]
        put.append(_Put(document, requests, replies, facts))
    return put


def _written(
    engine: Engine, base: Base, rows: Sequence[Any], made: Sequence[tuple[Document, list[Any]]]
) -> list[_Put]:
    asked = [x for _, own in made for x in _repeated(own)]
    right = [
        reference_ids(base, row)
        for row, (_, own) in zip(rows, made, strict=True)
        for _ in _repeated(own)
    ]
    found = iter(engine.written(asked, right))
    put = []
    for row, (document, requests) in zip(rows, made, strict=True):
        mine = [next(found) for _ in _repeated(requests)]
        text, answer = mine[0]
        known = answer.reference
        facts = {
            "reference": row.answer,
            "reply": text.strip(),
            "loss": -known.log_probability if known else None,
            "loss_tokens": known.tokens if known else 0,
            "tokens_in": answer.prompt_tokens,
            "tokens_out": len(answer.ids),
        }
        put.append(_Put(document, requests, [text for text, _ in mine], facts))
    return put
