"""The tuned encoder of a study: trained once, kept in its folder, read back afterwards."""

import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from domainwright.core.artifacts import read_manifest, sha256_json, write_json
from domainwright.core.config import as_mapping
from domainwright.core.errors import DataError, RunFailed
from domainwright.core.progress import Listener
from domainwright.models.encoder import Encoder
from domainwright.models.tuned_encoder import KIND, encoder_hash, load_tuned, save_tuned
from domainwright.studies._pairs import MOST_PAIRS, study_pairs
from domainwright.studies.data import StudyData
from domainwright.studies.study import StudySettings
from domainwright.train.contrastive import ContrastiveSettings, tune

RETRIEVER = "retriever"
"""Folder within the study's."""
SECONDS = "seconds.json"
FEWEST_PAIRS = 32
SETTINGS = ContrastiveSettings(kind="full", max_tokens=128)
"""All weights: LoRA gained less in both domains of `bench.retriever`, for 3 MB in the place of 90.
Half of what the encoder can read: a pass takes less than half of the time."""


def retriever_of(
    study: StudySettings, data: StudyData, folder: Path, listen: Listener
) -> Callable[[], Encoder]:
    """What trains the study's encoder when it is first called, or reads it back.

    Raises:
        RunFailed: fewer than `FEWEST_PAIRS` pairs.
    """

    @cache
    def make() -> Encoder:
        target, parents = folder / RETRIEVER, _parents(study, data)
        if not _made(target, parents):
            begun = time.perf_counter()
            _train(study, data, target, parents, listen, folder / "vectors")
            # Beside what is hashed: two trainings of one study are one artifact.
            write_json(target / SECONDS, {"seconds": time.perf_counter() - begun})
        return load_tuned(target)

    return make


def retriever_hash(folder: Path) -> str:
    """Content hash of the study's tuned encoder."""
    return str(read_manifest(folder / RETRIEVER, KIND, verify=False)["hash"])


def tuning_tokens() -> int:
    """Tokens of a training run, with its backward passes in tokens read; at most."""
    each = (2 + SETTINGS.negatives) * SETTINGS.max_tokens
    return 4 * SETTINGS.epochs * MOST_PAIRS * each


def retriever_seconds(folder: Path) -> float:
    """What training it took, 0 where that was not told."""
    file = folder / RETRIEVER / SECONDS
    return float(json.loads(file.read_text(encoding="utf-8"))["seconds"]) if file.is_file() else 0.0


def _parents(study: StudySettings, data: StudyData) -> dict[str, str]:
    settings = {**as_mapping(SETTINGS), "seed": study.seed}
    return {
        "dataset": data.hash,
        **{s.file: s.sha256 for s in data.sources if s.role == "documents"},
        "encoder": encoder_hash(),
        "settings": sha256_json(settings),
    }


def _made(folder: Path, parents: dict[str, str]) -> bool:
    try:
        return bool(read_manifest(folder, KIND)["parents"] == parents)
    except DataError:
        return False  # never made, or damaged: made anew


def _train(
    study: StudySettings,
    data: StudyData,
    target: Path,
    parents: dict[str, str],
    listen: Listener,
    vectors: Path,
) -> None:
    split = data.split
    found = study_pairs(
        split.train,
        data.documents,
        [*split.test, *split.dev],
        SETTINGS,
        seed=study.seed,
        most=MOST_PAIRS,
        listen=listen,
        vectors=vectors,
    )
    if len(found.pairs) < FEWEST_PAIRS:
        reasons = ", ".join(f"{k} {n}" for k, n in found.left_out.items())
        raise RunFailed(
            f"rag_tuned found {len(found.pairs)} pairs of a question and its passage and needs "
            f"{FEWEST_PAIRS} (left out: {reasons or 'none'}).",
            "give more documents, or documents with titles, or take rag.",
        )
    tuned = tune(Encoder(torch.float32), found.pairs, SETTINGS, study.seed, listen)
    facts = {
        "settings": as_mapping(SETTINGS),
        "seed": study.seed,
        "pairs": len(found.pairs),
        "of_rows": sum(p.group.startswith("row ") for p in found.pairs),
        "left_out": found.left_out,
        "losses": list(tuned.losses),
    }
    save_tuned(target, tuned.change, parents, facts)
