"""Earlier LoRA adapters that stay, and answer together with the one that is learned.

    y = W x + b + Σ_i γ_i B_i A_i x + γ B A x        A_i, B_i frozen

The artifact is one LoRA of all ranks, A's rows and B's columns one below or beside the other,
B_i multiplied by γ_i / γ: every reader of LoRA adds up the same changes. Such an artifact may be
the past of the next; it holds its own past already.

Dimension key: I inputs of the layer, O outputs, R rank.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from domainwright.core.artifacts import MANIFEST, read_manifest, sha256_file
from domainwright.core.errors import ConfigError
from domainwright.methods._peft_format import OWN
from domainwright.models.points import Linear

if TYPE_CHECKING:
    from domainwright.methods.lora import LoraAdapter

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Past:
    """What stays, layer by layer."""

    factors: tuple[tuple[Tensor, Tensor], ...] = ()
    """(A (R, I), B (O, R) with its scale in it) of every layer; empty: nothing stays."""
    holds: tuple[str, ...] = ()
    """SHA-256 of the weights of every adapter in it, those within others too."""
    parents: tuple[str, ...] = ()
    """Content hashes of the folders it was read from."""


def read_past(
    folders: Sequence[str], layers: Sequence[Linear], load: Callable[[Path], "LoraAdapter"]
) -> Past:
    """The adapters in these folders, added up.

    Args:
        load: an adapter folder -> the adapter on this base.

    Raises:
        ConfigError: no such folder, other layers, or one adapter twice.
        DataError: damaged, of another base or of another method.
    """
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]
    holder: dict[str, str] = {}
    parents = []
    for name in folders:
        folder = _adapter_folder(name)
        adapter = load(folder)
        if adapter.changes_embedding:
            raise ConfigError(
                f"lora.past: {name} has learned rows of the embedding, which are no part of a sum.",
                "name a run without lora.tokens, lora.new_tokens and a target in the embedding.",
            )
        changes = {layer.path: change for layer, change in adapter.changes()}
        _check_layers(name, set(changes), {x.path for x in layers})
        for mine, layer in zip(found, layers, strict=True):
            a, b = changes[layer.path].factors()
            mine.append((a.detach(), b.detach() * changes[layer.path].scale))
        for digest in _held(folder):
            if digest in holder:
                _refuse_twice(holder[digest], name)
            holder[digest] = name
        whole = (folder / MANIFEST).is_file()
        parents.append(
            read_manifest(folder, "adapter")["hash"] if whole else sha256_file(folder / WEIGHTS)
        )
    stacked = tuple(
        (torch.cat([a for a, _ in x]), torch.cat([b for _, b in x], dim=1)) for x in found
    )
    return Past(stacked, tuple(holder), tuple(parents))


def _adapter_folder(name: str) -> Path:
    """The adapter of a run, or the adapter folder itself."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"lora.past names {name!r}, and there is no such folder.",
            "give the folder of `dw train`, or the `adapter` folder of a run.",
        )
    return folder / "adapter" if (folder / "adapter").is_dir() else folder


def _held(folder: Path) -> list[str]:
    own = folder / OWN
    noted: dict[str, Any] = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    return [sha256_file(folder / WEIGHTS), *noted.get("past", [])]


def _check_layers(name: str, theirs: set[str], ours: set[str]) -> None:
    if theirs == ours:
        return
    odd = min(theirs ^ ours)
    has, lacks = ("changes", "does not") if odd in theirs else ("leaves out", "does")
    raise ConfigError(
        f"lora.past: {name} {has} the layer {odd}, which this run {lacks}.",
        "give both the same lora.targets.",
    )


def _refuse_twice(first: str, second: str) -> None:
    raise ConfigError(
        f"lora.past: {first} and {second} hold the same adapter, whose change would count twice.",
        "name the last run alone: it holds the past that it was trained with.",
    )
