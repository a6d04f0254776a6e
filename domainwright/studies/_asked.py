"""Training rows as the tuned model will be asked: with the instruction, and with passages.

A model tuned on bare questions has not learned to read passages, and answers in the base's own
words as soon as some stand ahead of the question. Where a study asks METHOD+rag, a share of the
rows therefore shows what the search finds for them; the others keep the bare question, for the
method without retrieval. Source: Zhang et al. 2024 (RAFT, arXiv:2403.10131), which trains on
retrieved passages, wrong ones among them.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import write_json
from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.records import Chat, Choice, Row, Text
from domainwright.core.seeds import share
from domainwright.evaluate.tasks.answers import reference_ids
from domainwright.infer.likelihood import Request, score
from domainwright.models.base import Base
from domainwright.models.encoder import Encoder
from domainwright.models.forms import Prompt, choice_prompt, continuation, offered
from domainwright.models.template import Template
from domainwright.prompting import PROMPTINGS
from domainwright.prompting._sources import Sources, ask, question_of
from domainwright.studies._choice import parts
from domainwright.studies._retriever import (
    RETRIEVER,
    retriever_hash,
    retriever_of,
    retriever_seconds,
)
from domainwright.studies._watched import limit
from domainwright.studies.data import StudyData
from domainwright.studies.study import StudySettings

PREPARED = "prepared.json"
TUNED = "rag_tuned"
TRAIN_SHARE = 0.5
"""Share of the rows with passages where the study leaves it open and asks METHOD+rag."""

MOST_QUOTED = 4000
"""Rows whose passages are searched: a search takes about 10 ms, and few runs read more rows."""


class Prompters:
    """The prompting strategies of one study, each made once."""

    def __init__(self, sources: Sources, folder: Path) -> None:
        self.sources, self.folder = sources, folder
        self._made: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        if name not in self._made:
            begun = time.perf_counter()
            made = self._made[name] = PROMPTINGS.get(name)(self.sources)
            file = self._file(name)
            if not file.exists():  # later studies of one folder find the vectors made
                seconds = time.perf_counter() - begun
                if name == TUNED:  # an interrupted study may have trained it before
                    seconds = max(seconds, retriever_seconds(self.folder))
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, {"seconds": seconds, "note": getattr(made, "note", None)})
        return self._made[name]

    def prepare_seconds(self, name: str) -> float:
        """What it took to make a prompting strategy ready, 0 where nothing had to be."""
        return float(self._prepared(name).get("seconds", 0.0))

    def note(self, name: str) -> str | None:
        """What a prompting strategy chose by itself, where it does."""
        note: str | None = self._prepared(name).get("note")
        return note

    def parents(self, name: str) -> dict[str, str]:
        """Artifacts that a prompting strategy's answers come from, by content hash."""
        if name != TUNED:
            return {}
        self.get(name)
        return {RETRIEVER: retriever_hash(self.folder)}

    def _prepared(self, name: str) -> dict[str, Any]:
        file = self._file(name)
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}

    def _file(self, name: str) -> Path:
        return self.folder / "trials" / name / PREPARED


def prompters_of(
    study: StudySettings,
    base: Base,
    data: StudyData,
    folder: Path,
    listen: Listener = quiet,
    *,
    encoder: Callable[[], Encoder] | None = None,
    vectors: Path | None = None,
) -> Prompters:
    """Prompting strategies that draw on the study's training rows and documents.

    Args:
        encoder: what rag_tuned searches with. None: the study's own, trained when it is needed.
        vectors: where sentence vectors are kept. None: in `folder`.
    """
    sources = Sources(
        # Not made rows: the nearest examples would be one row and its own copies.
        examples=[r for r in data.split.train if not isinstance(r, Text) and not r.provenance],  # type: ignore[misc]
        documents=data.documents,
        settings=study.prompting,
        count_tokens=lambda text: len(base.template.tokens(text)),
        listen=listen,
        vectors=vectors or folder / "vectors",
        development=data.split.dev or (data.split.train if data.crossfit else ()),
        losses=lambda rows, prompts: _reference_losses(base, rows, prompts, listen),
        tuned=encoder or retriever_of(study, data, folder, listen),
    )
    return Prompters(sources, folder)


def as_asked(
    study: StudySettings,
    data: StudyData,
    base: Base,
    prompters: Prompters,
    names: Sequence[str],
) -> StudyData:
    """The data with its training and development rows as the strategies called `names` ask.

    A row that its passages make longer than training allows stays bare.
    """
    most = limit(base, study.train)
    searching = [p for m, p in map(parts, names) if m and PROMPTINGS.get(p).needs == ("documents",)]
    wanted = study.prompting.train_share
    quoted = (TRAIN_SHARE if wanted is None else wanted) if searching else 0.0
    split, listen = data.split, prompters.sources.listen
    drawn = {row.id: share(study.seed, f"quoted {row.id}") for row in (*split.train, *split.dev)}
    found = sorted((x, name) for name, x in drawn.items() if x < quoted)
    shown_ids = {name for _, name in found[:MOST_QUOTED]}

    rag = prompters.get(searching[0]) if shown_ids else None
    done: list[str] = []

    def asked(row: Row) -> Row:
        if isinstance(row, Text):
            return row
        if rag and row.id in shown_ids:
            shown = as_shown(row, rag.prompt(row))
            done.append(row.id)
            listen(Step("passages", len(done), len(shown_ids)))
            if _tokens(base.template, shown) <= most:
                return shown
        return as_shown(row, ask(row, study.prompting))

    if rag and "dense" in rag.kinds:
        asking = [question_of(row) for row in (*split.train, *split.dev) if row.id in shown_ids]
        rag.index.encoder.keep(asking, prompters.sources.vectors)
    changed = replace(split, train=tuple(map(asked, split.train)), dev=tuple(map(asked, split.dev)))
    return replace(data, asked=changed)


def as_shown(row: Row, prompt: Prompt) -> Row:
    """The row with what a prompt puts ahead of its question."""
    if isinstance(row, Chat):
        return replace(row, messages=(*prompt.messages, row.messages[-1]))
    if isinstance(row, Choice):
        lead = prompt.text.removesuffix(choice_prompt(row))
        return replace(row, context=f"{lead}{row.context}")
    return row


def _tokens(template: Template, row: Row) -> int:
    if isinstance(row, Choice):
        return len(template.tokens(choice_prompt(row) + offered(row)[row.answer]))
    return len(template.conversation(row.messages).ids) if isinstance(row, Chat) else 0


def _reference_losses(
    base: Base, rows: Sequence[Row], prompts: Sequence[Prompt], listen: Listener
) -> list[float]:
    """Nats per token of each row's right answer after its prompt."""
    requests = []
    for row, prompt in zip(rows, prompts, strict=True):
        if isinstance(row, Choice):
            right = offered(row)[row.answer]
            requests.append(Request(*continuation(base.template, prompt.text, right)))
        elif isinstance(row, Chat):
            asked = base.template.prompt(prompt.messages)
            requests.append(Request(asked, reference_ids(base, row)))
    found = score(base, requests, listen=listen, stage="instructions")
    return [-x.log_probability / x.tokens for x in found]
