"""One training run with its pre-flight checks: rows in, adapter folder and figures out."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from domainwright.core import machine
from domainwright.core.artifacts import seal, sha256_json
from domainwright.core.config import as_mapping, from_mapping
from domainwright.core.errors import DataError
from domainwright.core.lock import lock
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Row, SetAside, Text
from domainwright.methods import METHODS
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow, encode_rows
from domainwright.studies.records import Training
from domainwright.train import loop
from domainwright.train.memory import micro_tokens
from domainwright.train.preflight import check_rows, check_template
from domainwright.train.settings import TrainSettings

WATCHED = 48
"""Most development rows measured at each check; more would cost training time."""
WATCHED_TOKENS = 6000
"""Most tokens of them, but never fewer than FEWEST_WATCHED rows: on answers of 230 tokens, 48 rows
at five checks took longer than ten steps of training."""
FEWEST_WATCHED = 8
GENERAL = 24
"""General texts on which forgetting is watched during a run."""
LARGE = 1_000_000_000
"""Parameters from which a method's learning rate for large bases applies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    adapter: Adapter
    """In its best state, not attached."""
    training: Training
    set_aside: list[SetAside]
    hash: str
    """Of the adapter artifact."""


def tune(
    base: Base,
    method: str,
    rows: Sequence[Row],
    development: Sequence[Row],
    general: Sequence[Text],
    settings: TrainSettings,
    *,
    method_settings: dict[str, Any],
    steps: int | None,
    seed: int,
    folder: Path,
    parents: dict[str, str],
    memory_gb: float | None = None,
    resume: bool = False,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Train `method` on `rows` and write `folder/adapter`.

    Args:
        steps: optimiser steps where the settings leave them open; None: full epochs.
        parents: content hashes of what the run is made from.

    Raises:
        DataError: a pre-flight check fails.
        RunFailed: the run fails its own checks.
    """
    with lock(folder):
        kind = METHODS.get(method)
        adapter: Adapter = kind.build(
            base, from_mapping(kind.Settings, method_settings, f"methods {method}"), seed
        )
        template = base.template
        kept, aside = preflight(base, rows, settings)
        watched = _watched(base, development, settings)
        longest = max(len(r.ids) for r in (*kept, *watched))
        room = memory_gb or 0.75 * machine.memory_gb()
        rate = (
            settings.learning_rate
            or kind.learning_rate["large" if base.parameters >= LARGE else "small"]
        )
        total = settings.steps or steps or full_steps(len(kept), settings)
        chosen = {
            **as_mapping(settings),
            "steps": total,
            "learning_rate": rate,
            "method": f"{method}@{kind.version}",
            **as_mapping(adapter.settings),
        }
        identity = _identity(chosen, parents, seed, kept)
        job = loop.Job(
            base=base,
            adapter=adapter,
            rows=kept,
            development=watched,
            general=encode_rows(template, general[:GENERAL], limit(base, settings)),
            settings=settings,
            steps=total,
            learning_rate=rate,
            micro_tokens=settings.micro_tokens or micro_tokens(base, adapter, room, longest),
            seed=seed,
            folder=folder,
            run_hash=identity,
        )
        trained = loop.train(job, resume=resume, listen=listen, stop=stop)
        manifest = _write_adapter(folder / "adapter", adapter, parents | {"run": identity})
        training = _record(trained, adapter, chosen)
        _write_training(folder, training, aside)
        return Tuned(adapter=adapter, training=training, set_aside=aside, hash=manifest["hash"])


def _watched(base: Base, rows: Sequence[Row], settings: TrainSettings) -> list[TrainRow]:
    """The development rows whose loss is measured during the run."""
    encoded = encode_rows(base.template, rows[: 2 * WATCHED], limit(base, settings))
    whole = [r for r in encoded if not r.cut][:WATCHED]
    if not whole:
        raise DataError(
            "No development row fits the length limit.",
            "raise train.max_tokens or give development rows of your own.",
        )
    read = accumulate(len(r.ids) for r in whole)
    fitting = sum(tokens <= WATCHED_TOKENS for tokens in read)
    return whole[: max(FEWEST_WATCHED, fitting)]


def _identity(
    chosen: dict[str, Any], parents: dict[str, str], seed: int, rows: Sequence[TrainRow]
) -> str:
    """Hash of all that decides a run's result; what changes memory or disk alone is left out."""
    free = ("micro_tokens", "checkpoint_every")
    return sha256_json(
        {
            "settings": {k: v for k, v in chosen.items() if k not in free},
            "parents": parents,
            "seed": seed,
            "rows": [(r.id, r.ids) for r in rows],
        }
    )


def _record(trained: loop.Trained, adapter: Adapter, chosen: dict[str, Any]) -> Training:
    return Training(
        minutes=trained.seconds / 60,
        steps=trained.steps,
        best_step=trained.best_step,
        tokens=trained.tokens,
        tokens_per_s=trained.tokens_per_s,
        peak_rss_mib=trained.peak_rss_mib,
        trainable=adapter.trainable,
        settings=chosen,
        history=list(trained.history),
    )


def preflight(
    base: Base, rows: Sequence[Row], settings: TrainSettings
) -> tuple[list[TrainRow], list[SetAside]]:
    """Rows tokenised and checked; those that the length limit cuts are set aside.

    Raises:
        DataError: the first check that fails.
    """
    encoded = encode_rows(base.template, rows, limit(base, settings))
    check_template(base, rows, encoded)
    return check_rows(
        base, encoded, max_cut_share=settings.max_cut_share, max_tokens=limit(base, settings)
    )


def limit(base: Base, settings: TrainSettings) -> int:
    """Longest training document: what is asked for, as far as the base can read."""
    return min(settings.max_tokens, base.context)


def full_steps(rows: int, settings: TrainSettings) -> int:
    """Steps of `settings.epochs` passes, at least one."""
    return max(1, round(settings.epochs * rows / settings.batch))


def _write_adapter(folder: Path, adapter: Adapter, parents: dict[str, str]) -> dict[str, Any]:
    adapter.save(folder)
    adapter.base.tokenizer.save_pretrained(folder)
    files = sorted(
        p
        for p in folder.iterdir()
        if p.is_file() and p.name != "manifest.json" and p.name != "README.md"
    )
    return seal(folder, "adapter", files, parents=parents)


def _write_training(folder: Path, training: Training, aside: list[SetAside]) -> None:
    import json

    from domainwright.core.artifacts import write_atomic, write_json

    write_json(folder / "training.json", asdict(training))
    if aside:
        write_atomic(
            folder / "set_aside.jsonl",
            "".join(json.dumps(asdict(x), ensure_ascii=False) + "\n" for x in aside),
        )
