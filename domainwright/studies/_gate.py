"""The gate of a study: whether an input belongs to the domain, by the training questions near it.

    s(x) = mean of the k largest cosines of e(x) with the vectors of the training rows
    t    = the largest value that at least ⌈share · n⌉ of the n development rows reach
    s(x) ≥ t: the adapter answers; otherwise the untouched base

The threshold is fitted on development rows alone. Of a further question of the domain, in a group
of its own as they are, ⌈share · n⌉ / (n + 1) pass on average. Neither test rows, nor the suite on
which forgetting is measured, nor the texts of replay take part: what passes of general input is
told by texts that the gate has never seen, and is not bounded by the fit.

One gate serves all gated strategies of a study: it depends on the rows and not on the adapter.

gate.safetensors   unit vectors (rows, 384) of the training rows, float32
manifest.json      threshold, share, nearest; the dataset's and the encoder's hash

Source: methods.md §7.2 (adapter gating), §9.4 (sequence-level routing).
Dimension key: N training rows, D development rows, E dimensions of a vector.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from domainwright.core.artifacts import read_manifest, sha256_json, write_folder, write_json
from domainwright.core.config import as_mapping
from domainwright.core.errors import DataError, RunFailed
from domainwright.core.progress import Listener, Step
from domainwright.core.records import Row, Text
from domainwright.core.seeds import share
from domainwright.models.encoder import Encoder, default_encoder
from domainwright.models.tuned_encoder import encoder_hash
from domainwright.prompting._sources import question_of
from domainwright.studies.data import StudyData
from domainwright.studies.refine.champion import read_champions, round_of
from domainwright.studies.study import GateSettings, StudySettings

GATE = "gate"
"""Folder within the study's, and kind of the artifact."""
FILE, SECONDS = "gate.safetensors", "seconds.json"
MOST_ROWS = 2000
"""Training rows whose vectors are kept: 3 MB, and half a minute on one core."""
MOST_DEVELOPMENT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A fitted gate."""

    vectors_NE: np.ndarray
    threshold: float
    """Least nearness that passes."""
    settings: GateSettings
    development: int
    """Rows on which the threshold was fitted."""
    development_passed: int
    encoder: Encoder
    hash: str
    """Of the artifact."""

    def nearness(self, text: str) -> float:
        """s(x) of an input, in [-1, 1]; the encoder reads its first 256 tokens."""
        # Each text for itself: beside others it is padded, which moves its last bits.
        vector_E = self.encoder.encode([text])[0]
        return nearness(vector_E, self.vectors_NE, self.settings.nearest)

    def passes(self, text: str) -> bool:
        """Whether the adapter answers."""
        return self.nearness(text) >= self.threshold


def nearness(vector_E: np.ndarray, vectors_NE: np.ndarray, nearest: int) -> float:
    """Mean of the `nearest` largest cosines with unit vectors; of all, where there are fewer."""
    return float(np.sort(vectors_NE @ vector_E)[-nearest:].mean(dtype=np.float64))


def threshold(nearness_D: Sequence[float], passing: float) -> float:
    """The largest value that a share of at least `passing` reaches.

    >>> threshold([0.1, 0.4, 0.2, 0.3], 0.75), threshold([0.1, 0.4, 0.2, 0.3], 0.76)
    (0.2, 0.1)
    """
    # 0.95 · 20 is a little above 19 in floating point.
    count = max(1, math.ceil(passing * len(nearness_D) - 1e-9))
    return sorted(nearness_D, reverse=True)[count - 1]


def input_of(row: Row) -> str:
    """What the gate reads of a row: its question, with its context; a text as a whole."""
    return row.text if isinstance(row, Text) else question_of(row)


def gate_of(
    study: StudySettings, data: StudyData, folder: Path, listen: Listener
) -> Callable[[], Gate]:
    """What fits the study's gate when it is first called, or reads it back.

    Raises:
        RunFailed: there is no development row to fit it on.
        CapabilityError: the embedded encoder is not installed.
    """

    @cache
    def make() -> Gate:
        target = folder / GATE
        parents = {
            "dataset": data.hash,
            "encoder": encoder_hash(),
            "settings": sha256_json({**as_mapping(study.gate), "seed": study.seed}),
        }
        if not _made(target, parents):
            begun = time.perf_counter()
            _fit(study, data, target, parents, listen)
            # Beside what is hashed: two fits of one study are one artifact.
            write_json(target / SECONDS, {"seconds": time.perf_counter() - begun})
        return load_gate(target)

    return make


def load_gate(folder: Path) -> Gate:
    """A gate from its folder.

    Raises:
        DataError: it is damaged, or was fitted with another encoder.
        CapabilityError: the embedded encoder is not installed.
    """
    manifest = read_manifest(folder, GATE)
    if manifest["parents"]["encoder"] != encoder_hash():
        raise DataError(
            f"{folder} was fitted with another sentence encoder than the one installed.",
            "install the encoder's earlier version, or run the study again with --fresh.",
        )
    facts = manifest["facts"]
    return Gate(
        vectors_NE=load_file(folder / FILE)["vectors"].numpy(),
        threshold=facts["threshold"],
        settings=GateSettings(share=facts["share"], nearest=facts["nearest"]),
        development=facts["development"],
        development_passed=facts["development_passed"],
        encoder=default_encoder(),
        hash=manifest["hash"],
    )


def widened(
    gate: Gate, rows: Sequence[Row], development: Sequence[Row], folder: Path, listen: Listener
) -> Gate:
    """The gate with further rows that an adapter learned, kept in `folder`.

    Without them what was learned from new questions would not be asked about. The threshold is
    fitted anew: with more rows every input is at least as near as before.

    Args:
        development: the rows on which the threshold is fitted.
    """
    inputs, watched = [input_of(row) for row in rows], [input_of(row) for row in development]
    parents = {
        "gate": gate.hash,
        "encoder": encoder_hash(),
        "learned": sha256_json([inputs, watched]),
    }
    if not _kept(folder, parents):
        vectors_NE = np.concatenate([gate.vectors_NE, gate.encoder.encode(inputs, listen)])
        _write(gate.settings, vectors_NE, watched, gate.encoder, folder, parents, listen)
    return load_gate(folder)


def gate_in_force(run: Path, own: str) -> Path:
    """The gate that goes with the adapter in force: of the last round that widened it.

    Args:
        own: the run's own adapter, such as "trials/lora/adapter".
    """
    line = read_champions(run).lines.get(own, [])
    made = [(run / name).parents[1] / GATE for name in reversed(line) if round_of(name)]
    return next((folder for folder in made if folder.is_dir()), run / GATE)


def gate_seconds(folder: Path) -> float:
    """What fitting the study's gate took."""
    told = json.loads((folder / GATE / SECONDS).read_text(encoding="utf-8"))
    return float(told["seconds"])


def _made(folder: Path, parents: dict[str, str]) -> bool:
    return _kept(folder, parents) and (folder / SECONDS).is_file()


def _kept(folder: Path, parents: dict[str, str]) -> bool:
    try:
        return bool(read_manifest(folder, GATE)["parents"] == parents)
    except DataError:
        return False  # never made, or damaged: made anew


def _fit(
    study: StudySettings, data: StudyData, target: Path, parents: dict[str, str], listen: Listener
) -> None:
    split, wanted, encoder = data.split, study.gate, default_encoder()
    # Not made rows: the nearest ones would be one row and its own copies.
    train = _drawn([r for r in split.train if not r.provenance], MOST_ROWS, study.seed)
    development = _drawn(split.dev, MOST_DEVELOPMENT, study.seed)
    if not train or not development:
        raise RunFailed(
            f"The gate is fitted on training and development rows, and there are {len(train)} and "
            f"{len(development)}.",
            "raise data.development_share, or leave +gated out.",
        )
    vectors_NE = encoder.encode([input_of(row) for row in train], listen)
    watched = [input_of(row) for row in development]
    _write(wanted, vectors_NE, watched, encoder, target, parents, listen)


def _write(
    wanted: GateSettings,
    vectors_NE: np.ndarray,
    development: Sequence[str],
    encoder: Encoder,
    target: Path,
    parents: dict[str, str],
    listen: Listener,
) -> None:
    """Fit the threshold on the development inputs, and write the folder."""
    nearness_D = []
    for number, text in enumerate(development, 1):
        alone_E = encoder.encode([text])[0]
        nearness_D.append(nearness(alone_E, vectors_NE, wanted.nearest))
        listen(Step("fit gate", number, len(development)))
    least = threshold(nearness_D, wanted.share)

    def fill(out: Path) -> None:
        save_file({"vectors": torch.from_numpy(vectors_NE)}, out / FILE)

    facts = {
        **as_mapping(wanted),
        "threshold": least,
        "rows": len(vectors_NE),
        "development": len(nearness_D),
        "development_passed": sum(x >= least for x in nearness_D),
        "dtype": str(encoder.model.dtype).removeprefix("torch."),
    }
    write_folder(target, GATE, fill, parents=parents, facts=facts)


def _drawn(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    """At most so many rows, in the order of a draw that hangs on their ids alone."""
    return sorted(rows, key=lambda row: (share(seed, f"gate {row.id}"), row.id))[:most]
