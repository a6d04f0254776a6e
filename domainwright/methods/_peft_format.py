"""Adapter folders in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.

Tensor names are "base_model.model." + module path + ".lora_A.weight". Beside PEFT's own
keys the config of ours carries none; what Domainwright must know (base hash, method
version) lies in `domainwright.json`, so every reader of PEFT folders accepts them. A method
that PEFT lacks writes the same files, and its config has no `peft_type`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from domainwright.core.artifacts import write_json
from domainwright.core.errors import DataError

PREFIX = "base_model.model."
OWN = "domainwright.json"


def write(
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    own: dict[str, Any],
    prefix: str = PREFIX,
) -> None:
    """Write an adapter folder; `prefix` goes before the names of tensors that sit on layers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", config)
    write_json(folder / OWN, own)
    save_file(
        {prefix + name: tensor.detach().contiguous() for name, tensor in tensors.items()},
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


def common(peft_type: str, base_name: str, paths: list[str]) -> dict[str, Any]:
    """Keys that PEFT's config of every adapter on layers has.

    Full module paths: a bare suffix such as "dense" can match other layers in PEFT.
    """
    return {
        "peft_type": peft_type,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": base_name,
        "revision": None,
        "modules_to_save": None,
        "target_modules": paths,
    }


def check_type(config: dict[str, Any], peft_type: str | None, method: str, folder: Path) -> None:
    """Refuse a folder of another method, or one that says it trains more than the method does.

    Raises:
        DataError: the type differs, or whole modules were trained beside it.
    """
    found = {"peft_type": config.get("peft_type")} if config.get("peft_type") != peft_type else {}
    if config.get("modules_to_save"):
        found["modules_to_save"] = config["modules_to_save"]
    for key, value in found.items():
        raise DataError(
            f"{folder} has {key} = {value!r}, which {method} does not compute.",
            "load it with the method it was trained with, or with PEFT.",
        )


def check_method(noted: dict[str, Any], method: str, folder: Path) -> None:
    """Refuse a folder of another method, where PEFT has no type that tells them apart.

    Raises:
        DataError: the methods differ.
    """
    if str(noted.get("method")).partition("@")[0] != method:
        raise DataError(
            f"{folder} holds {noted.get('method', 'another adapter')!r}, not {method!r}.",
            "load it with the method it was trained with.",
        )


def named(rule: str | list[str] | None, path: str) -> bool:
    """Whether PEFT's rule for choosing modules names `path`.

    >>> named(["q_proj"], "layers.0.q_proj"), named(["q_proj"], "layers.0.my_q_proj")
    (True, False)
    """
    if isinstance(rule, str):
        return rule == "all-linear" or re.fullmatch(rule, path) is not None
    return any(path == t or path.endswith("." + t) for t in rule or [])


def declared(config: dict[str, Any], blocks: Mapping[str, int | None]) -> set[str]:
    """Modules that the config says are adapted, by PEFT's matching rules.

    Args:
        blocks: every module that may be one, with the number of its block.
    """
    chosen = config.get("layers_to_transform")
    if isinstance(chosen, int):
        chosen = [chosen]
    return {
        path
        for path, block in blocks.items()
        if named(config["target_modules"], path)
        and not named(config.get("exclude_modules"), path)
        and (not chosen or block in chosen)
    }


def check_keys(wanted: set[str], present: set[str], folder: Path) -> None:
    """Refuse a file that lacks a tensor or holds one too many.

    Raises:
        DataError: with the first of them.
    """
    missing, surplus = wanted - present, present - wanted
    if missing or surplus:
        what = f"lacks {min(missing)!r}" if missing else f"holds {min(surplus)!r} too"
        raise DataError(
            f"{folder} {what} ({len(missing)} missing, {len(surplus)} surplus tensors).",
            "save the adapter again; this file does not match its own config.",
        )


def fill(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Copy the file's tensors into the adapter's, each of the same name and shape.

    Raises:
        DataError: a tensor is missing, surplus or of another shape.
    """
    check_keys(set(targets), set(tensors), folder)
    for name, target in targets.items():
        value = tensors[name]
        if value.shape != target.shape:
            raise DataError(
                f"{name.removesuffix('.weight')} has the shape {tuple(value.shape)}, "
                f"not {tuple(target.shape)}.",
                "load it on the base it was trained on.",
            )
        with torch.no_grad():
            target.copy_(value)
