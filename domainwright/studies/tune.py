"""One training run with its pre-flight checks: rows in, adapter folder and figures out."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import read_manifest, seal, sha256_json, write_atomic, write_json
from domainwright.core.config import as_mapping, from_mapping
from domainwright.core.lock import lock
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Row, SetAside, Text
from domainwright.methods import METHODS, usual_rate
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.studies._alike import equal_shares, read_alike, weighed_alike
from domainwright.studies._beginnings import build, gone_on
from domainwright.studies._labels import encoded_rows, labels_of
from domainwright.studies._replay import replay_rows
from domainwright.studies._watched import general_rows, limit, watched_rows
from domainwright.studies.records import Planned, Training
from domainwright.studies.refine.champion import answering
from domainwright.train import loop
from domainwright.train.checkpoint import disk_errors
from domainwright.train.epochs import full_steps
from domainwright.train.fit import Fit, Wish, fit
from domainwright.train.objective import penalties_of
from domainwright.train.penalties._penalty import Given
from domainwright.train.preflight import check_rows, check_template
from domainwright.train.settings import TrainSettings
from domainwright.train.tasks import balance_of, with_tasks
from domainwright.train.teacher import dictated, with_blank_lessons, with_lessons

PLANNED = "planned.json"
"""How a run fits into memory, decided once: a resumed run must not measure another answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    adapter: Adapter
    """In its best state, not attached."""
    training: Training
    set_aside: list[SetAside]
    hash: str
    """Of the adapter artifact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A training run as a study asks for it."""

    base: Base
    method: str
    rows: Sequence[Row]
    development: Sequence[Row]
    general: Sequence[Text]
    hidden: Sequence[Row] = ()
    """Test rows, which no text read beside the rows may give away."""
    settings: TrainSettings
    method_settings: dict[str, Any]
    steps: int | None
    """Optimiser steps where the settings leave them open; None: full epochs."""
    seed: int
    folder: Path
    """Checkpoints, metrics and the adapter go here."""
    parents: dict[str, str]
    """Content hashes of what the run is made from."""
    memory_gb: float | None = None
    planned: Fit | None = None
    """How the run fits into memory; None: a probe decides."""
    start: dict[str, float] | None = None
    """Watched losses of the untouched base, where they are known."""
    lessons: Path | None = None
    """Where what a teacher says is kept, for all runs of a study; None: in `folder`."""
    begin: Path | None = None
    """Adapter folder whose state the run goes on from; None: from the base."""
    task: str | None = None
    """Which of the tasks that `begin` learned side by side is gone on with; None: it is one."""
    side_by_side: tuple[str, ...] = ()
    """Tasks of which the adapter learns each apart, in one run."""
    tasks: Mapping[str, str] = field(default_factory=dict)
    """Id of a training row -> the task it belongs to."""
    shares: Mapping[str, float] | None = None
    """Task -> share of the rows that are read; None: every row once an epoch."""
    alike: bool = False
    """Whether labels are read equally often and weigh the same in the development loss."""


def tune(
    wanted: Wanted,
    *,
    resume: bool = False,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Train, and write `folder/adapter`.

    Raises:
        CapabilityError: the run does not fit into `memory_gb`.
        DataError: a pre-flight check fails.
        RunFailed: the run fails its own checks.
    """
    folder = wanted.folder
    with lock(folder):
        begun = begin(wanted, resume, listen)
        job, adapter = begun.job, begun.job.adapter
        trained = loop.train(job, resume=resume, listen=listen, stop=stop)
        parents = begun.parents | {"run": job.run_hash}
        manifest = _write_adapter(folder / "adapter", adapter, parents)
        training = _record(trained, adapter, begun.chosen, begun.found)
        _write_training(folder, training, begun.aside)
        return Tuned(
            adapter=adapter, training=training, set_aside=begun.aside, hash=manifest["hash"]
        )


def advance(
    wanted: Wanted,
    until: int,
    *,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> loop.Paused:
    """The run up to step `until`, to be gone on with; what is there already is not done again.

    Raises:
        As `tune`.
    """
    with lock(wanted.folder):
        begun = begin(wanted, True, listen)
        return loop.advance(begun.job, until, listen=listen, stop=stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    job: loop.Job
    found: Fit
    chosen: dict[str, Any]
    aside: list[SetAside]
    parents: dict[str, str]


def begin(wanted: Wanted, resume: bool, listen: Listener) -> Begun:
    """The job, with all that was left open decided."""
    base, method, settings, seed = wanted.base, wanted.method, wanted.settings, wanted.seed
    kind = METHODS.get(method)
    labels = labels_of([*wanted.rows, *wanted.development], settings)
    adapter = (
        gone_on(base, method, wanted.method_settings, wanted.begin, seed, labels, wanted.task)
        if wanted.begin
        else build(base, method, wanted.method_settings, seed, labels, wanted.side_by_side)
    )
    kept, aside, parents = _taught(wanted, adapter, listen)
    kept = with_tasks(kept, wanted.tasks)
    folder, longest = wanted.lessons or wanted.folder / "lessons", limit(base, settings)
    measured = [*wanted.general, *wanted.hidden]
    replay, unused, more = replay_rows(base, settings, measured, longest, folder, listen)
    aside, parents = aside + unused, parents | more | adapter.parents
    with adapter.speaking():
        wish = wish_of(
            base, kept, wanted.development, wanted.general, settings, seed, wanted.memory_gb
        )
    watched = with_tasks(wish.watched, wanted.tasks)
    wish = replace(wish, replay=replay, shares=wanted.shares, watched=watched)
    if wanted.alike:
        wish = with_labels(wish, wanted.rows, wanted.development)
    total = settings.steps or wanted.steps or full_steps(len(kept), settings)
    found = _fit(wanted.folder if resume else None, wanted.planned, wish, total) or fit(
        base, lambda: build(base, method, wanted.method_settings, seed, labels), wish, total
    )
    write_json(wanted.folder / PLANNED, asdict(found.require()))
    if wanted.begin:
        parents = parents | {"begin": read_manifest(wanted.begin, "adapter")["hash"]}
    else:
        with adapter.speaking():
            adapter.prepare(kept, seed)
    chosen = {
        **as_mapping(settings),
        "steps": total,
        "learning_rate": settings.learning_rate
        or usual_rate(method, base.parameters, settings.batch),
        "micro_tokens": found.micro_tokens,
        "gradient_checkpointing": found.gradient_checkpointing,
        "offload": found.offload,
        "method": f"{method}@{kind.version}",
        **as_mapping(adapter.settings),
        **({"shares": dict(wish.shares)} if wish.shares else {}),
        **({"alike": True} if wanted.alike else {}),
    }
    write_json(wanted.folder / "chosen.json", chosen)
    job = _job(
        base,
        adapter,
        wish,
        found,
        start=wanted.start,
        rate=chosen["learning_rate"],
        folder=wanted.folder,
        identity=_identity(chosen, parents, seed, kept),
        given=Given(replay, folder, listen),
    )
    return Begun(job=job, found=found, chosen=chosen, aside=aside, parents=parents)


def _taught(
    wanted: Wanted, adapter: Adapter, listen: Listener
) -> tuple[list[TrainRow], list[SetAside], dict[str, str]]:
    """(training rows with what a teacher adds to them, rows set aside, the run's parents)."""
    base, settings, distil = wanted.base, wanted.settings, wanted.settings.distil
    if distil is None:
        with adapter.speaking():
            return *preflight(base, wanted.rows, settings), wanted.parents
    if distil.teacher:
        distil = replace(distil, teacher=answering(distil.teacher))
    folder = wanted.lessons or wanted.folder / "lessons"
    if distil.learn == "sequences":
        rows, unanswered, said = dictated(base, wanted.rows, distil, folder, listen)
        with adapter.speaking():
            kept, aside = preflight(base, rows, settings)
        aside = unanswered + aside
    else:
        with adapter.speaking():
            kept, aside = preflight(base, wanted.rows, settings)
            kept, said = with_lessons(base, kept, distil, folder, listen)
    return kept, aside, wanted.parents | {"lessons": said}


def _job(
    base: Base,
    adapter: Adapter,
    wish: Wish,
    found: Fit,
    *,
    start: dict[str, float] | None,
    rate: float,
    folder: Path,
    identity: str,
    given: Given,
) -> loop.Job:
    return loop.Job(
        base=base,
        adapter=adapter,
        rows=wish.rows,
        development=wish.watched[: wish.development],
        general=wish.watched[wish.development :],
        settings=wish.settings,
        steps=found.steps,
        learning_rate=rate,
        micro_tokens=found.micro_tokens,
        start=start,
        recompute=found.gradient_checkpointing,
        offload=found.offload,
        replay=wish.replay,
        shares=wish.shares,
        penalties=penalties_of(adapter, wish.settings, given),
        balance=balance_of(wish.settings.tasks, wish.rows, wish.seed),
        seed=wish.seed,
        folder=folder,
        run_hash=identity,
    )


def with_labels(wish: Wish, rows: Sequence[Row], development: Sequence[Row]) -> Wish:
    """The same with labels that count alike; tasks that share an epoch go on doing so."""
    wish = replace(wish, watched=weighed_alike(wish.watched, development))
    if wish.shares:
        return wish
    read = read_alike(wish.rows, rows)
    return replace(wish, rows=read, shares=equal_shares(read))


def wish_of(
    base: Base,
    kept: Sequence[TrainRow],
    development: Sequence[Row],
    general: Sequence[Text],
    settings: TrainSettings,
    seed: int,
    memory_gb: float | None,
) -> Wish:
    """What a run on these rows is to be."""
    watched = watched_rows(base, development, settings)
    texts = general_rows(base, general, settings)
    return Wish(
        rows=kept,
        watched=[*watched, *texts],
        development=len(watched),
        settings=settings,
        seed=seed,
        memory_gb=memory_gb,
    )


def _fit(folder: Path | None, planned: Fit | None, wish: Wish, steps: int) -> Fit | None:
    """The decision that holds already: that of the run in `folder`, else the plan's.

    Another budget, or a size that the study gives, asks for a new one.
    """
    settings = wish.settings
    file = folder / PLANNED if folder else None
    if file and file.is_file():
        planned = from_mapping(Fit, json.loads(file.read_text(encoding="utf-8")), str(file))
    if planned is None or (planned.memory_gb, planned.steps) != (wish.memory_gb, steps):
        return None
    same = (
        settings.micro_tokens in (None, planned.micro_tokens)
        and settings.gradient_checkpointing in ("auto", planned.gradient_checkpointing)
        and settings.offload in ("auto", planned.offload)
    )
    return planned if same else None


def _identity(
    chosen: dict[str, Any], parents: dict[str, str], seed: int, rows: Sequence[TrainRow]
) -> str:
    """Hash of all that decides a run's result; what changes memory or disk alone is left out."""
    free = ("micro_tokens", "gradient_checkpointing", "offload", "checkpoint_every")
    return sha256_json(
        {
            "settings": {k: v for k, v in chosen.items() if k not in free},
            "parents": parents,
            "seed": seed,
            "rows": [(r.id, r.ids, r.task) for r in rows],
        }
    )


def _record(
    trained: loop.Trained, adapter: Adapter, chosen: dict[str, Any], found: Fit
) -> Training:
    return Training(
        minutes=trained.seconds / 60,
        steps=trained.steps,
        best_step=trained.best_step,
        tokens=trained.tokens,
        tokens_per_s=trained.tokens_per_s,
        peak_rss_mib=trained.peak_rss_mib,
        trainable=adapter.trainable,
        settings=chosen,
        planned=Planned(minutes=found.run_seconds / 60, peak_rss_mib=round(found.peak_mib)),
        history=list(trained.history),
    )


def preflight(
    base: Base, rows: Sequence[Row], settings: TrainSettings
) -> tuple[list[TrainRow], list[SetAside]]:
    """Rows tokenised and checked; those that the length limit cuts are set aside.

    Raises:
        DataError: the first check that fails.
    """
    encoded = encoded_rows(base, rows, settings, limit(base, settings))
    check_template(base, rows, [row for row in encoded if row.labels is None])
    kept, aside = check_rows(
        base, encoded, max_cut_share=settings.max_cut_share, max_tokens=limit(base, settings)
    )
    if settings.distil is not None and settings.distil.learn == "logits":
        # A plan asks no teacher, and must reckon with what a lesson costs.
        kept = with_blank_lessons(kept, settings.distil, base.vocabulary)
    return kept, aside


def _write_adapter(folder: Path, adapter: Adapter, parents: dict[str, str]) -> dict[str, Any]:
    with disk_errors(folder):
        adapter.save(folder)
    adapter.tokenizer.save_pretrained(folder)
    files = sorted(
        p
        for p in folder.iterdir()
        if p.is_file() and p.name != "manifest.json" and p.name != "README.md"
    )
    return seal(folder, "adapter", files, parents=parents)


def _write_training(folder: Path, training: Training, aside: list[SetAside]) -> None:
    write_json(folder / "training.json", asdict(training))
    if aside:
        write_atomic(
            folder / "set_aside.jsonl",
            "".join(json.dumps(asdict(x), ensure_ascii=False) + "\n" for x in aside),
        )
