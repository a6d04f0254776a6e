"""A tuned sentence encoder as a folder: what was changed, and of which encoder.

encoder.safetensors   new values by name, or factors NAME.A and NAME.B, float32
manifest.json         parents, among them the hash of the encoder it is a change of
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from domainwright.core.artifacts import read_manifest, sha256_file, write_folder
from domainwright.core.errors import DataError
from domainwright.models.base import fast_dtype
from domainwright.models.embedded import encoder_folder
from domainwright.models.encoder import Encoder

KIND, FILE = "encoder", "encoder.safetensors"


@cache
def encoder_hash() -> str:
    """Hash of the embedded encoder's weights.

    Raises:
        CapabilityError: it is not installed.
    """
    return sha256_file(encoder_folder() / "model.safetensors")


def save_tuned(
    folder: Path,
    change: Mapping[str, torch.Tensor],
    parents: Mapping[str, str],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the change of the embedded encoder; return the manifest."""

    def fill(out: Path) -> None:
        save_file({name: x.contiguous() for name, x in change.items()}, out / FILE)

    own = {**parents, "encoder": encoder_hash()}
    return write_folder(folder, KIND, fill, parents=own, facts=facts)


def load_tuned(folder: Path, dtype: torch.dtype | None = None) -> Encoder:
    """The embedded encoder with the change that `folder` holds.

    Raises:
        DataError: no complete change, or one of another encoder.
        CapabilityError: the embedded encoder is not installed.
    """
    manifest = read_manifest(folder, KIND)
    if manifest["parents"].get("encoder") != encoder_hash():
        raise DataError(
            f"{folder} was tuned from another sentence encoder than the one installed.",
            "install the encoder's earlier version, or run the study again with --fresh.",
        )
    # The change is added in float32: bfloat16 would round it away.
    tuned = Encoder(torch.float32).changed(load_file(folder / FILE), manifest["hash"])
    tuned.model.to(dtype or fast_dtype("cpu"))
    return tuned
