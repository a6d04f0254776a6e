"""What a teacher says, asked once and kept on disk, so that it is not there while a student trains.

    logits      its likeliest tokens at every supervised token of the training rows
    sequences   its greedy answers to their questions, in the place of the rows' own

A teacher is a base, an adapter on its base, or the student's own base without or with an
adapter. What was asked is found again by the hashes of both bases, the adapter and the rows.

Dimension key: N supervised tokens, K kept tokens, V vocabulary.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from domainwright.core.artifacts import sha256_file, sha256_json
from domainwright.core.errors import ConfigError, DataError
from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.records import Chat, Message, Row, SetAside
from domainwright.infer.generate import answer
from domainwright.methods import METHODS
from domainwright.methods._folders import method_of
from domainwright.methods._peft_format import OWN
from domainwright.models.base import Base, load_base
from domainwright.models.forms import TrainRow
from domainwright.models.lesson import Lesson
from domainwright.models.resolve import resolve, weights_hash
from domainwright.train.checkpoint import disk_errors
from domainwright.train.lessons import kept_artifact
from domainwright.train.loss import BLOCK, batch_of
from domainwright.train.order import micro_batches
from domainwright.train.settings import DistilSettings

PASS = 2048
"""Tokens that a teacher reads at once."""
COMPARED = 64
"""Training rows that both tokenizers must split alike. A teacher may know more tokens."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher that is known and not loaded."""

    name: str
    base: str | None
    """What to load; None: the student's own base."""
    adapter: Path | None
    sha256: str
    """Of the weights of both."""


def find(name: str | None, student: Base) -> Teacher:
    """The teacher called `name`.

    Raises:
        ConfigError, CapabilityError, DataError: there is none, or it is out of reach.
    """
    own = student.sha256
    if student.quantised is not None:
        own = sha256_json([own, student.quantised])
    if name is None:
        return Teacher(student.source.name, None, None, own)
    folder = Path(name)
    if (folder / "verdict.json").is_file():
        raise ConfigError(
            f"train.distil.teacher {name!r} is a study with several strategies.",
            f"give one of them, such as {folder / 'trials' / 'lora'}.",
        )
    places = (folder, folder / "adapter")
    adapter = next((p for p in places if (p / "adapter_config.json").is_file()), None)
    base: str | None = name
    if adapter is not None:
        base = _base_of(adapter, student)
    if base is None:
        sha256 = own
    else:
        sha256 = weights_hash(resolve(base).folder)
        base = None if sha256 == own else base
    files = [] if adapter is None else sorted(adapter.glob("*.safetensors"))
    whole = sha256_json([sha256, *(sha256_file(f) for f in files)]) if files else sha256
    return Teacher(name, base, adapter, whole)


def _base_of(adapter: Path, student: Base) -> str | None:
    """The base of an adapter; None: the student's own."""
    noted: dict[str, Any] = {}
    for file in (adapter / "adapter_config.json", adapter / OWN):
        if file.is_file():
            noted |= json.loads(file.read_text(encoding="utf-8"))
    if noted.get("base_sha256") == student.sha256:
        return None
    base = noted.get("base") or noted.get("base_model_name_or_path")
    if base is None:
        raise DataError(
            f"The adapter in {adapter} does not say of which base it is.",
            "give the folder of a run, or an adapter with base_model_name_or_path.",
        )
    return None if base == student.source.name else str(base)


@contextmanager
def seated(teacher: Teacher, student: Base) -> Iterator[Base]:
    """The teacher's base with its adapter on; both are gone, or off, after the block."""
    base = student
    if teacher.base is not None:
        dtype = str(student.dtype).removeprefix("torch.")
        base = load_base(teacher.base, dtype=dtype, device=str(student.device))
    if teacher.adapter is None:
        yield base
    else:
        adapter = METHODS.get(method_of(teacher.adapter)).load(base, teacher.adapter)
        with adapter.attached():
            yield base


def with_lessons(
    student: Base,
    rows: Sequence[TrainRow],
    settings: DistilSettings,
    folder: Path,
    listen: Listener = quiet,
) -> tuple[list[TrainRow], str]:
    """(the rows with what the teacher says about them, hash of what it said).

    Args:
        folder: what was said is looked for there, and written there.

    Raises:
        ConfigError: the teacher has other tokens than the student, or too short a context.
    """
    _check_words(student, settings)
    teacher = find(settings.teacher, student)
    asked = [[row.ids, row.supervised] for row in rows]
    parents = {
        "teacher": teacher.sha256,
        "base": student.sha256,
        "asked": sha256_json([asked, settings.temperature, settings.top, str(student.dtype)]),
    }

    def fill(out: Path) -> None:
        with seated(teacher, student) as base:
            _check_words(base, settings)
            _check_tokens(teacher, base, student, rows)
            said = list(_said(base, student.vocabulary, rows, settings, listen))
        names = ("ids_NK", "logs_NK", "rest_N")
        tensors = {n: torch.cat([getattr(x, n) for x in said]) for n in names}
        with disk_errors(out):
            save_file(tensors, out / "lessons.safetensors")

    place, digest = kept_artifact(folder, parents, fill)
    # Mapped, not read: the table stays on the disk, and a pass takes its own part of it.
    whole = Lesson(
        **load_file(place / "lessons.safetensors"),
        weight=settings.weight,
        temperature=settings.temperature,
    )
    taught, first = [], 0
    for row in rows:
        taught.append(replace(row, lesson=whole.at(slice(first, first + row.targets))))
        first += row.targets
    return taught, digest


def with_blank_lessons(
    rows: Sequence[TrainRow], settings: DistilSettings, words: int
) -> list[TrainRow]:
    """The rows as a plan sees them: lessons of the right size, and no teacher asked."""
    kept = min(settings.top or words, words)
    return [
        replace(r, lesson=Lesson.blank(r.targets, kept, settings.weight, settings.temperature))
        for r in rows
    ]


def _check_words(base: Base, settings: DistilSettings) -> None:
    """Refuse probabilities of tokens that only one of both has."""
    if base.words is not None:
        raise ConfigError(
            f"train.distil.learn is 'logits', and {list(base.words.texts)} are tokens of the "
            "student or of its teacher alone (lora.new_tokens).",
            "set `train: {distil: {learn: sequences}}`, or leave `new_tokens` out.",
        )


def _check_tokens(teacher: Teacher, base: Base, student: Base, rows: Sequence[TrainRow]) -> None:
    ours, theirs = student.tokenizer.get_vocab(), base.tokenizer.get_vocab()
    other = sum(theirs.get(token) != number for token, number in ours.items())
    texts = [student.tokenizer.decode(row.ids) for row in rows[:COMPARED]]
    split = [
        [list(x.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
        for x in (student, base)
    ]
    if other or split[0] != split[1]:
        found = f"{other} of {len(ours)} differ" if other else "it splits the rows in other places"
        raise ConfigError(
            f"The teacher {teacher.name!r} has other tokens than {student.source.name!r} "
            f"({found}), so its probabilities say nothing about the student's.",
            "set `train: {distil: {learn: sequences}}`, or give a teacher of the same family.",
        )
    longest = max(len(row.ids) for row in rows)
    if longest > base.context:
        raise ConfigError(
            f"The teacher {teacher.name!r} reads {base.context} tokens, and the longest training "
            f"row has {longest}.",
            f"set `train: {{max_tokens: {base.context}}}`.",
        )


@torch.no_grad()
def _said(
    base: Base, words: int, rows: Sequence[TrainRow], settings: DistilSettings, listen: Listener
) -> Iterator[Lesson]:
    """The lessons of all rows, pass by pass, on the CPU."""
    done = 0
    for group in micro_batches(rows, PASS):
        flat, sources_N, *_ = batch_of(base, group)
        rows_N, places_N = sources_N.unique(return_inverse=True)
        states = base.hidden(flat, rows_N) if base.plain_head else base.logits(flat, rows_N)
        for places in places_N.split(BLOCK):
            logits = base.project(states[places]) if base.plain_head else states[places]
            yield lesson_of(logits[:, :words], settings)
        done += len(group)
        listen(Step("teacher", done, len(rows)))


def lesson_of(logits_NV: Tensor, settings: DistilSettings) -> Lesson:
    """What logits say, as it is kept."""
    logs_NV = (logits_NV.float() / settings.temperature).log_softmax(1)
    kept = logs_NV.topk(min(settings.top or logs_NV.shape[1], logs_NV.shape[1]), dim=1)
    rest_N = logs_NV.scatter(1, kept.indices, -torch.inf).logsumexp(1)
    ids_NK, logs_NK, rest_N = (x.cpu() for x in (kept.indices.int(), kept.values, rest_N))
    return Lesson(ids_NK, logs_NK, rest_N, settings.weight, settings.temperature)


def dictated(
    student: Base,
    rows: Sequence[Row],
    settings: DistilSettings,
    folder: Path,
    listen: Listener = quiet,
) -> tuple[list[Row], list[SetAside], str]:
    """(rows whose last answer is the teacher's, those it had none for, hash of what it wrote).

    Every row keeps its name, file and line.

    Raises:
        ConfigError: rows that are no conversations.
        DataError: the teacher answers none.
    """
    chats = [row for row in rows if isinstance(row, Chat)]
    if len(chats) < len(rows):
        kind = next(type(r).__name__.lower() for r in rows if not isinstance(r, Chat))
        raise ConfigError(
            f"train.distil.learn is 'sequences', and the rows are {kind} rows, without an answer "
            "to write.",
            "set `train: {distil: {learn: logits}}`.",
        )
    teacher = find(settings.teacher, student)
    asked = [[row.id, [asdict(m) for m in row.messages[:-1]]] for row in chats]
    parents = {
        "teacher": teacher.sha256,
        "base": student.sha256,
        "asked": sha256_json([asked, settings.new_tokens, str(student.dtype)]),
    }

    def fill(out: Path) -> None:
        with seated(teacher, student) as base:
            lines = [
                json.dumps(x, ensure_ascii=False) for x in _written(base, chats, settings, listen)
            ]
        (out / "answers.jsonl").write_text("\n".join(lines), encoding="utf-8")

    place, digest = kept_artifact(folder, parents, fill)
    # Not splitlines: it also breaks at characters that JSON leaves as they are.
    said = [json.loads(x) for x in (place / "answers.jsonl").read_text("utf-8").split("\n")]
    kept: list[Row] = []
    aside = []
    for row, one in zip(chats, said, strict=True):
        if one["why"] is None:
            messages = (*row.messages[:-1], Message("assistant", one["text"]))
            kept.append(replace(row, messages=messages))
        else:
            aside.append(SetAside.of(row, one["why"], one["text"]))
    if not kept:
        raise DataError(
            f"The teacher {teacher.name!r} gave no answer that could be used, for {len(aside)} "
            f"questions ({aside[0].reason}).",
            "raise train.distil.new_tokens, or give another teacher.",
        )
    return kept, aside, digest


def _written(
    base: Base, rows: Sequence[Chat], settings: DistilSettings, listen: Listener
) -> list[dict[str, Any]]:
    """{text, why it is of no use or None} for every row."""
    asked = [base.template.prompt(row.messages[:-1]) for row in rows]
    room = base.context - settings.new_tokens
    short = [i for i, ids in enumerate(asked) if len(ids) <= room]
    replies = answer(
        base,
        [asked[i] for i in short],
        new_tokens=settings.new_tokens,
        listen=listen,
        stage="teacher",
    )
    found: list[dict[str, Any]] = [
        {
            "text": f"the question has {len(ids)} tokens; {max(0, room)} fit",
            "why": "too_long_for_teacher",
        }
        for ids in asked
    ]
    for i, reply in zip(short, replies, strict=True):
        text = reply.text.strip()
        why = None if reply.ended else "unfinished_teacher_answer"
        if not text:
            why, text = "empty_teacher_answer", "the teacher wrote nothing"
        found[i] = {"text": text, "why": why}
    return found
