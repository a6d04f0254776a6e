"""Texts that the untouched base writes itself, to be read again while it is tuned.

Drawn at temperature 1 they are a sample of what the base says, so learning them keeps it as it is
where no general text is at hand. A base with a chat template writes half of them as conversations:
first what a user asks, after the template's own words for that, then the answer. The rest are
plain texts after an opening of a word, or of nothing but the beginning token where there is one.
The loss is on what was written, not on what it was begun with.

They depend on the base and the settings alone, so all methods and seeds of a study share them,
and lie beside what a teacher said.

Sources: Marek et al. 2026 (self-generated replay; methods.md §7.2); Xu et al. 2024,
arXiv:2406.08464 (questions drawn from the template's own beginning).
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import sha256_json
from domainwright.core.errors import DataError
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Message
from domainwright.core.seeds import derive
from domainwright.infer._sampling import Sampling
from domainwright.infer.generate import Answer, answer
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.train.lessons import kept_artifact
from domainwright.train.regimes import ReplaySettings
from domainwright.train.settings import DistilSettings
from domainwright.train.teacher import find, with_lessons

OPENINGS = ("", "The", "In", "A", "It", "This", "When", "There", "If", "We", "For", "How")
"""What plain texts begin with, in turn. The first is the beginning token alone, where there is one.
"""
MARK = "\x00"
"""Stands in a template for what a user asks."""


def written(
    base: Base,
    settings: ReplaySettings,
    longest: int,
    folder: Path,
    listen: Listener = quiet,
    *,
    seed: int = 0,
) -> tuple[list[TrainRow], str]:
    """(documents that the base wrote, hash of them), looked for in `folder` and written there.

    Args:
        base: nothing hangs on it.
        longest: tokens of a document.

    Raises:
        DataError: it writes nothing that can be used.
    """
    openings = [x for x in map(_opening(base), OPENINGS) if x]
    asked = [settings.texts, settings.new_tokens, longest, seed, openings, str(base.dtype)]
    parents = {"base": find(None, base).sha256, "asked": sha256_json(asked)}

    def fill(out: Path) -> None:
        lines = [
            json.dumps(x, ensure_ascii=False)
            for x in _draw(base, settings, openings, longest, seed, listen)
        ]
        (out / "replay.jsonl").write_text("\n".join(lines), encoding="utf-8")

    place, digest = kept_artifact(folder, parents, fill)
    text = (place / "replay.jsonl").read_text("utf-8")
    # Not splitlines: it also breaks at characters that JSON leaves as they are.
    said = [json.loads(x) for x in text.split("\n")] if text else []
    if not said:
        raise DataError(
            f"{base.source.name} wrote no text of {settings.texts} that could be used for replay.",
            "give a file of general texts: `train: {replay: {source: FILE}}`.",
        )
    return [_row(number, one) for number, one in enumerate(said)], digest


def with_base_lessons(
    base: Base, rows: Sequence[TrainRow], folder: Path, listen: Listener = quiet
) -> tuple[list[TrainRow], str]:
    """(the rows with the untouched base's own distributions as their only target, hash of those).

    The loss of such a row is KL(base ‖ θ) of `train.distillation`, at temperature 1 and weight 1.
    """
    taught, digest = with_lessons(base, rows, DistilSettings(temperature=1.0), folder, listen)
    return [replace(r, lesson=replace(r.lesson, weight=1.0)) for r in taught], digest  # type: ignore[type-var]


def planned(settings: ReplaySettings, longest: int) -> list[TrainRow]:
    """Documents as a plan sees them before they are written: the longest that may come."""
    size = min(settings.new_tokens, longest)
    return [TrainRow(f"replay-{n}", [0] * size, [True] * size) for n in range(settings.texts)]


def _opening(base: Base) -> Any:
    return lambda text: list(base.tokenizer(text).input_ids)


def _draw(
    base: Base,
    settings: ReplaySettings,
    openings: list[list[int]],
    longest: int,
    seed: int,
    listen: Listener,
) -> list[dict[str, Any]]:
    """{prompt, ids, text} of every document that has a token to learn."""
    chats = settings.texts // 2 if base.template.own else 0
    prompts = [openings[n % len(openings)] for n in range(settings.texts - chats)]
    if chats:
        asking = _asking(base)
        room = min(settings.new_tokens // 2, base.context - len(asking))
        drawing = Sampling(seed=derive(seed, "question"))
        stage = "replay questions"
        questions = answer(
            base, [asking] * chats, new_tokens=room, sampling=drawing, listen=listen, stage=stage
        )
        # One that did not end is no question, and an empty one asks nothing.
        texts = [q.text for q in questions if q.ended and q.text]
        prompts += [base.template.prompt([Message("user", text)]) for text in texts]
    room = min(longest, base.context)
    prompts = [p for p in prompts if len(p) + 2 <= room]
    found = answer(
        base,
        prompts,
        new_tokens=min(settings.new_tokens, room - max(map(len, prompts), default=0)),
        sampling=Sampling(seed=derive(seed, "replay")),
        listen=listen,
        stage="replay",
    )
    return [_line(p, a) for p, a in zip(prompts, found, strict=True) if a.ids]


def _asking(base: Base) -> list[int]:
    """Ids of the template up to a user's first word."""
    whole = base.template.render([Message("user", MARK)], answer_next=False)
    return base.template.tokens(whole.partition(MARK)[0])


def _line(prompt: list[int], said: Answer) -> dict[str, Any]:
    end = [] if said.stop is None else [said.stop]
    return {"prompt": prompt, "ids": [*said.ids, *end], "text": said.text}


def _row(number: int, line: dict[str, Any]) -> TrainRow:
    prompt, ids = line["prompt"], line["ids"]
    marks = [False] * len(prompt) + [True] * len(ids)
    return TrainRow(f"replay-{number}", prompt + ids, marks)
