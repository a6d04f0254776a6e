"""What a selection looks at: sentence vectors, and how likely the base finds the rows.

The losses are read once a study; they lie beside the vectors under a hash of rows and base.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from domainwright.core.artifacts import sha256_json
from domainwright.core.errors import ConfigError
from domainwright.core.progress import Listener
from domainwright.core.records import Chat, Choice, Row, Text
from domainwright.curate.content import content
from domainwright.curate.dataset import row_as_json
from domainwright.curate.select import bags_of, target_vectors_of, vectors_of
from domainwright.curate.selection import Seen
from domainwright.curate.selection.relevance import target_bag
from domainwright.evaluate.tasks.answers import REFERENCE_TOKENS, reference_ids
from domainwright.infer.likelihood import Likelihood, Request, score
from domainwright.models.base import Base
from domainwright.models.forms import continuation, offered
from domainwright.prompting._sources import PromptSettings, ask

STAGE = "read rows to select"


def seen(
    rows: Sequence[Row],
    needs: tuple[str, ...],
    *,
    seed: int,
    base: Callable[[], Base],
    cache: Path,
    listen: Listener,
    target: Callable[[], Sequence[str]] = tuple,
    influence: Callable[[], np.ndarray] | None = None,
) -> Seen:
    """What is known of the rows, as far as it is needed.

    Args:
        base: loads the base; called only if the rows must be read by it.
        cache: folder of what was read before.
        target: reads the texts that rows should be like; called only if a method asks for them.
        influence: finds the rows' influence on the development rows; likewise.

    Raises:
        ConfigError: plain text, where a question is to be compared with its answer; no target.
    """
    if "alone" in needs and any(isinstance(row, Text) for row in rows):
        raise ConfigError(
            "difficulty compares an answer with and without its question; plain text has none.",
            "select by another method, such as uncertainty or k_center.",
        )
    vectors = vectors_of(rows, listen, cache) if "vectors" in needs else None
    read = {}
    if {"losses", "alone", "margins"} & set(needs):
        read = _read(rows, needs, base(), cache, listen)
    return Seen(
        count=len(rows),
        seed=seed,
        vectors_ND=vectors,
        target_vectors_MD=(
            target_vectors_of(target(), listen, cache) if "target_vectors" in needs else None
        ),
        loss_N=read.get("losses"),
        alone_N=read.get("alone"),
        margin_N=read.get("margins"),
        length_N=np.array([len(content(row)) for row in rows]) if "lengths" in needs else None,
        bags_N=bags_of(rows) if "bags" in needs else None,
        target_B=target_bag(target()) if "bags" in needs else None,
        influence_N=influence() if influence and "influence" in needs else None,
    )


def _read(
    rows: Sequence[Row], needs: tuple[str, ...], base: Base, cache: Path, listen: Listener
) -> dict[str, np.ndarray]:
    wanted = {"alone": "alone" in needs, "margins": "margins" in needs}
    key = sha256_json([base.sha256, str(base.dtype), wanted, [row_as_json(row) for row in rows]])
    file = cache / f"losses-{key[:24]}.safetensors"
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError):
        found = losses(base, rows, listen, **wanted)
    cache.mkdir(parents=True, exist_ok=True)
    save_file(found, file)
    return found


def losses(
    base: Base,
    rows: Sequence[Row],
    listen: Listener,
    *,
    alone: bool = False,
    margins: bool = True,
) -> dict[str, np.ndarray]:
    """{"losses": (N,)}, with `margins` those of choices too, with `alone` the losses without the
    question."""
    asked = [_request(base, row) for row in rows]
    found = {"losses": _per_token(score(base, asked, listen=listen, stage=STAGE))}
    if alone:
        bare = [Request(_start(base), r.continuation) for r in asked]
        found["alone"] = _per_token(score(base, bare, listen=listen, stage=STAGE))
    choices = [row for row in rows if isinstance(row, Choice)]
    if margins and len(choices) == len(rows):
        found["margins"] = _margins(base, choices, listen)
    return found


def _request(base: Base, row: Row) -> Request:
    match row:
        case Chat():
            return Request(base.template.prompt(row.messages[:-1]), reference_ids(base, row))
        case Choice():
            right = offered(row)[row.answer]
            return Request(*continuation(base.template, _bare(row), right))
        case Text():
            ids = base.template.tokens(row.text)[: min(REFERENCE_TOKENS, base.context)]
            return Request(_start(base), ids)
    raise TypeError(f"{type(row).__name__} rows are not read")


def _bare(row: Choice) -> str:
    """What is read ahead of the answer, without an instruction or examples."""
    return ask(row, PromptSettings()).text


def _start(base: Base) -> list[int]:
    """What a text begins with that nothing stands before."""
    return continuation(base.template, "", "a")[0]


def _per_token(found: Sequence[Likelihood]) -> np.ndarray:
    return np.array([-x.log_probability / x.tokens for x in found])


def _margins(base: Base, rows: Sequence[Choice], listen: Listener) -> np.ndarray:
    """p(1) - p(2) of the softmax over the choices' log-probabilities."""
    asked = [
        Request(*continuation(base.template, _bare(row), choice))
        for row in rows
        for choice in offered(row)
    ]
    found = iter(score(base, asked, listen=listen, stage=STAGE))
    margins = []
    for row in rows:
        logs = np.array([next(found).log_probability for _ in row.choices])
        odds = np.sort(np.exp(logs - logs.max()))
        margins.append((odds[-1] - odds[-2]) / odds.sum() if len(odds) > 1 else 1.0)
    return np.array(margins)
