"""Several runs' adapters as one run: opened on their base, joined by `combine`, written as a run.

The folder answers like any run of one method (`dw chat`, `dw evaluate`, `dw export`), and the
manifest of its adapter names its members by content hash.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from domainwright.combine import COMBINERS
from domainwright.combine._changes import Changes, Joined
from domainwright.core.artifacts import read_manifest, write_folder
from domainwright.core.errors import ConfigError, DataError
from domainwright.core.progress import Listener, Step, quiet
from domainwright.methods._adapter import Adapter
from domainwright.methods._folders import method_of
from domainwright.methods._head import HeadedAdapter
from domainwright.methods._lora_settings import LoraSettings
from domainwright.methods._weights import WeightsAdapter
from domainwright.methods.lora import LoraAdapter
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.studies._base import base_of
from domainwright.studies._folder import STUDY_FILE
from domainwright.studies._opened import open_adapter
from domainwright.studies.api import wanted_of
from domainwright.studies.export import trained_method
from domainwright.studies.refine.champion import in_force
from domainwright.studies.study import StudySettings, read_study, write_resolved
from domainwright.studies.tune import wish_of
from domainwright.train.checkpoint import disk_errors
from domainwright.train.loss import losses_of_rows
from domainwright.train.memory import largest_pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    run: str
    weight: float
    """What it counts; 0: left out."""
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    folder: Path
    how: str
    method: str
    rank: int | None
    """Largest rank of a layer; None: not of LoRA's kind."""
    members: tuple[Member, ...]
    hash: str


def combine_runs(
    runs: Sequence[str | Path],
    output: str | Path,
    how: str = "average",
    *,
    weights: Sequence[float] | None = None,
    listen: Listener = quiet,
) -> Combined:
    """One run of several, written to `output`.

    Args:
        runs: folders of runs or studies, or of trials in a study; all of one method on one base.
        weights: what each counts, divided by their sum; None: all alike.

    Raises:
        UnknownName: there is no such way.
        ConfigError: fewer than two runs, the same one twice, weights that do not fit, methods that
            differ or whose mean is none, or the folder is not empty.
        DataError: a folder holds no run, one that is damaged, or one of another base.
    """
    kind, shares = COMBINERS.get(how), _shares(how, len(runs), weights)
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        what = "is not empty" if output.is_dir() else "is a file, not a folder"
        raise ConfigError(f"{output} {what}.", "give a new folder with -o.")
    folders = [_adapter_of(Path(run)) for run in runs]
    manifests = [read_manifest(folder, "adapter") for folder in folders]
    hashes = [str(manifest["hash"]) for manifest in manifests]
    if len(set(hashes)) < len(hashes):
        first = next(n for n, x in enumerate(hashes) if x in hashes[:n])
        raise ConfigError(
            f"{runs[first]} and {runs[hashes.index(hashes[first])]} are the same adapter.",
            "name each run once; --weights says what it counts.",
        )
    if not kind.weighted:
        _need_same_rows(how, runs, [manifest["parents"].get("dataset") for manifest in manifests])
    study = read_study(_study_file(Path(runs[0])))
    base, rows = _base_and_rows(study, method_of(folders[0]), not kind.weighted, listen)
    opened = [open_adapter(base, folder) for folder in folders]
    method = _one_method(opened, runs)
    members = [_changes_of(adapter) for adapter in opened]
    looks = 0

    def loss_of(changes: Changes) -> float:
        nonlocal looks
        with _adapter(base, opened[0], changes).attached():
            losses = losses_of_rows(base, rows, largest_pass(base.device))
        looks += 1
        listen(Step("combinations", looks, 2 * len(runs) - 1))
        return sum(losses) / sum(row.targets for row in rows)

    joined: Joined = kind.join(members, shares, loss_of)
    adapter = _adapter(base, opened[0], joined.changes)
    parents = {f"member {n}": x for n, x in enumerate(hashes, start=1)}
    facts = {"how": how, "weights": list(joined.weights)}
    manifest = _write(output, study, adapter, {"base": base.sha256, **parents}, facts)
    return Combined(
        folder=output,
        how=how,
        method=method,
        rank=max((len(a) for a, _ in joined.changes.low_rank.values()), default=None),
        members=tuple(
            Member(run=str(run), weight=weight, hash=digest)
            for run, weight, digest in zip(runs, joined.weights, hashes, strict=True)
        ),
        hash=manifest["hash"],
    )


def _shares(how: str, count: int, weights: Sequence[float] | None) -> list[float]:
    if count < 2:
        raise ConfigError(f"There is {count} run to combine.", "name two runs or more.")
    if weights is None:
        return [1 / count] * count
    if not COMBINERS.get(how).weighted:
        raise ConfigError(f"{how} finds its weights itself.", "leave --weights out.")
    if len(weights) != count:
        raise ConfigError(
            f"There are {count} runs and {len(weights)} weights.",
            f"give one for each run, such as --weights {','.join(['1'] * count)}.",
        )
    if not all(0 <= w < math.inf for w in weights) or not sum(weights):
        raise ConfigError(
            f"The weights are {', '.join(f'{w:g}' for w in weights)}.",
            "give numbers from 0, one of them above it, such as --weights 2,1.",
        )
    return [w / sum(weights) for w in weights]


def _adapter_of(run: Path) -> Path:
    """The folder of the adapter that answers for a run, a study or a trial.

    Raises:
        DataError: there is none.
    """
    method = trained_method(run)
    own = f"trials/{method}/adapter" if method else "adapter"
    if not (run / own).is_dir():
        raise DataError(
            f"{run} holds no trained adapter.",
            "give the folder of `dw train` or `dw decide`, or a trial such as RUN/trials/lora.",
        )
    return in_force(run, own)


def _study_file(run: Path) -> Path:
    """The study that a run belongs to; a trial lies within it."""
    for folder in (run, *run.resolve().parents[:3]):
        if (folder / STUDY_FILE).is_file():
            return folder / STUDY_FILE
    raise DataError(
        f"{run} lies in no study: there is no {STUDY_FILE} that says which base it is of.",
        "give the folder of `dw train` or `dw decide`.",
    )


def _need_same_rows(how: str, runs: Sequence[str | Path], datasets: Sequence[str | None]) -> None:
    """Development rows of one run may be training rows of another.

    Raises:
        ConfigError: the runs were not all made from one dataset.
    """
    for run, dataset in zip(runs, datasets, strict=True):
        if dataset is None or dataset != datasets[0]:
            raise ConfigError(
                f"{how} judges by development rows, and {runs[0]} and {run} were not made from the "
                "same dataset: what one is judged by, the other may have learned.",
                "combine runs of one study (`seeds: 3`, or other settings with the same seed), or "
                "use --how average.",
            )


def _one_method(opened: Sequence[Adapter], runs: Sequence[str | Path]) -> str:
    """The method of all of them.

    Raises:
        ConfigError: they differ, or have no mean.
    """
    first = opened[0]
    for run, adapter in zip(runs, opened, strict=True):
        if adapter.method != first.method:
            raise ConfigError(
                f"{runs[0]} is a run of {first.method}, and {run} one of {adapter.method}.",
                "combine runs of one method.",
            )
        if isinstance(adapter, HeadedAdapter):
            raise ConfigError(
                f"{run} has a head for labels, which is no change of the base.",
                "combine runs without `train.head`.",
            )
        if not isinstance(first, WeightsAdapter) or not isinstance(adapter, WeightsAdapter):
            continue
        if set(adapter.names) != set(first.names):
            raise ConfigError(
                f"{runs[0]} and {run} changed different weights.",
                f"combine runs with the same settings of {first.method}.",
            )
    return first.method


def _changes_of(adapter: Adapter) -> Changes:
    """What it changes, as sums that can be averaged.

    Raises:
        ConfigError: the mean of its parameters is not the mean of what it does.
    """
    if isinstance(adapter, LoraAdapter) and adapter.changes_embedding:
        which = "tokens" if adapter.words is None else "new_tokens"
        which = which if adapter.embedding is None else "targets"
        raise ConfigError(
            f"A run with `lora.{which}` cannot be combined: what it changes of the embedding is no "
            "change of linear layers.",
            f"combine runs of lora without it: leave `{which}` out, or name linear layers alone.",
        )
    if isinstance(adapter, LoraAdapter) and adapter.method == "lora":
        found = {}
        for layer, change in adapter.changes():
            a, b = change.factors()
            found[layer.path] = a.detach().clone(), b.detach() * change.scale
        return Changes(low_rank=found)
    if isinstance(adapter, WeightsAdapter):
        pairs = zip(adapter.names, adapter.values, strict=True)
        return Changes(values={name: value.detach().clone() for name, value in pairs})
    raise ConfigError(
        f"Runs of {adapter.method} cannot be combined: what it does is no sum of a change and the "
        "base's full weights, so a mean of its parameters is not the mean of what they do.",
        "combine runs of lora, full, top_layers, bitfit or layernorm.",
    )


@torch.no_grad()
def _adapter(base: Base, like: Adapter, changes: Changes) -> Adapter:
    """An adapter that changes the base so; of whole weights it is `like` itself."""
    if isinstance(like, WeightsAdapter):
        for name, value in zip(like.names, like.values, strict=True):
            value.copy_(changes.values[name])
        return like
    ranks = {path: len(a) for path, (a, _) in changes.low_rank.items()}
    usual = max(ranks.values())
    other = {path: r for path, r in ranks.items() if r != usual}
    settings = LoraSettings(
        rank=usual,
        alpha=float(usual),
        rank_pattern=other,
        alpha_pattern={path: float(r) for path, r in other.items()},
        targets=tuple(ranks),
    )
    adapter = LoraAdapter(base, settings, [x for x in base.hooks.linears if x.path in ranks])
    for layer, a, b in zip(adapter.layers, adapter.A, adapter.B, strict=True):
        a.copy_(changes.low_rank[layer.path][0])
        b.copy_(changes.low_rank[layer.path][1])
    return adapter


def _base_and_rows(
    study: StudySettings, method: str, measured: bool, listen: Listener
) -> tuple[Base, list[TrainRow]]:
    """(the study's base, the development rows that a run watches; none unless they are needed)."""
    if not measured:
        listen(Step("load base", 0, 1))
        return base_of(study), []
    with TemporaryDirectory() as folder:
        wanted = wanted_of(study, method, Path(folder), listen)
        wish = wish_of(wanted.base, (), wanted.development, (), study.train, study.seed, None)
        return wanted.base, list(wish.watched)


def _write(
    output: Path,
    study: StudySettings,
    adapter: Adapter,
    parents: dict[str, str],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The run's folder; its study file last, for without an adapter it would be no run."""

    def fill(folder: Path) -> None:
        adapter.save(folder)
        adapter.base.tokenizer.save_pretrained(folder)

    with disk_errors(output):
        manifest = write_folder(output / "adapter", "adapter", fill, parents=parents, facts=facts)
        write_resolved(study, output / STUDY_FILE)
    return manifest
