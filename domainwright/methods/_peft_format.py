"""Adapter folders in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.

Tensor names are "base_model.model." + module path + ".lora_A.weight". Beside PEFT's own
keys the config of ours carries none; what Domainwright must know (base hash, method
version) lies in `domainwright.json`, so every reader of PEFT folders accepts them.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from domainwright.core.artifacts import write_json
from domainwright.core.errors import DataError

PREFIX = "base_model.model."
OWN = "domainwright.json"


def write(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], own: dict[str, Any]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", config)
    write_json(folder / OWN, own)
    save_file(
        {PREFIX + name: tensor.detach().contiguous() for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """(PEFT's config, tensors without the prefix, what Domainwright noted or {}).

    Raises:
        DataError: a file is missing or unreadable.
    """
    paths = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"{folder} lacks {path.name}: it is no adapter folder.",
                "give the `adapter` folder of a run, or a folder saved by PEFT.",
            )
    own = folder / OWN
    try:
        config = json.loads(paths[0].read_text(encoding="utf-8"))
        noted = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
        with safe_open(paths[1], "pt") as file:
            tensors = {name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (ValueError, OSError) as error:
        raise DataError(f"{folder} cannot be read ({error}).", "save the adapter again.") from error
    except SafetensorError as error:
        raise DataError(f"{paths[1]} is damaged ({error}).", "save the adapter again.") from error
    return config, tensors, noted


def check_base(noted: dict[str, Any], sha256: str, base_name: str, folder: Path) -> None:
    """Refuse an adapter on another base than the one it was trained on.

    Raises:
        DataError: the hashes differ.
    """
    if noted and noted["base_sha256"] != sha256:
        raise DataError(
            f"The adapter in {folder} was trained on {noted['base']!r} "
            f"({noted['base_sha256'][:12]}…), not on {base_name!r} ({sha256[:12]}…).",
            f"load {noted['base']!r} as the base, or train a new adapter.",
        )
