"""Adapter folders in adapter-hub's layout: `adapter_config.json` and `adapter.safetensors`.

Tensors are named by the block, the part of it whose output they change and the adapter's own
name: "model.layers.0.output_adapters.adapters.NAME.adapter_down.0.weight". PEFT's config file
has the same name; theirs has no `peft_type` and describes the layers under "config". What
Domainwright must know lies in `domainwright.json`, as beside PEFT's files.

The library reads it with `load_adapter(folder, use_safetensors=True)`.

Source: the library `adapters` 1.3, loading.py and configuration/adapter_config.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from domainwright.core.artifacts import write_json
from domainwright.core.errors import DataError
from domainwright.methods._peft_format import OWN
from domainwright.models.base import Base

WEIGHTS = "adapter.safetensors"
PICKLED = "pytorch_adapter.bin"
"""What the library writes unless it is asked for safetensors."""
NAME = "domainwright"
"""The adapter's own name in what we write."""
PLAIN: dict[str, Any] = {
    "original_ln_after": True,
    "ln_before": False,
    "ln_after": False,
    "use_gating": False,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "inv_adapter": None,
    "inv_adapter_reduction_factor": None,
    "cross_adapter": False,
    "dropout": 0.0,
    "factorized_phm_W": True,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "factorized_phm_rule": False,
    "phm_c_init": "normal",
    "phm_init_range": 0.0001,
    "learn_phm": True,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "phm_rank": 1,
    "phm_bias": True,
    "stochastic_depth": 0.0,
}
"""Settings of the library's BnConfig at the only values that we compute."""
STARTS = ("phm_c_init", "phm_init_range", "hypercomplex_nonlinearity")
"""Those of them that say how an adapter began, which does not matter once it is trained."""
FUNCTIONS = {"relu": "relu", "gelu": "gelu", "silu": "swish", "tanh": "tanh"}
"""Our names of the non-linearities -> theirs."""


def name_of(block: str, part: str, adapter: str, tensor: str) -> str:
    """The library's name of a tensor; `part` is "attention" or "output".

    >>> name_of("model.layers.0", "output", "mine", "adapter_up.bias")
    'model.layers.0.output_adapters.adapters.mine.adapter_up.bias'
    """
    return f"{block}.{part}_adapters.adapters.{adapter}.{tensor}"


def is_folder(folder: Path) -> bool:
    """Whether the adapter there is in this layout."""
    return any((folder / file).is_file() for file in (WEIGHTS, PICKLED))


def write(
    folder: Path,
    base: Base,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    own: dict[str, Any],
) -> None:
    """Write an adapter folder.

    Args:
        config: what of BnConfig is not `PLAIN`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = base.model.config.get_text_config()
    whole = {
        "config": {**PLAIN, **config},
        "hidden_size": int(described.hidden_size),
        "model_class": type(base.model).__name__,
        "model_name": base.source.name,
        "model_type": described.model_type,
        "name": NAME,
        "version": "adapters.1.3.0",
    }
    write_json(folder / "adapter_config.json", whole)
    write_json(folder / OWN, own)
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )


def read(folder: Path) -> tuple[dict[str, Any], str, dict[str, Tensor], dict[str, Any]]:
    """(their BnConfig, the adapter's name, tensors, what Domainwright noted or {}).

    Raises:
        DataError: a file is missing or unreadable.
    """
    paths = folder / "adapter_config.json", folder / WEIGHTS
    if (folder / PICKLED).is_file() and not paths[1].is_file():
        paths = paths[0], folder / PICKLED
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"{folder} lacks {path.name}: it is no adapter folder.",
                "give the `adapter` folder of a run, or a folder saved by adapter-hub.",
            )
    own = folder / OWN
    try:
        config = json.loads(paths[0].read_text(encoding="utf-8"))
        noted = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
        layers, name = config["config"], str(config["name"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{folder} cannot be read ({error}).", "save the adapter again.") from error
    try:
        if paths[1].name == PICKLED:
            # Tensors only: no code of the file is run.
            tensors = torch.load(paths[1], map_location="cpu", weights_only=True)
        else:
            tensors = load_file(paths[1])
    except (SafetensorError, UnpicklingError, RuntimeError, OSError) as error:
        raise DataError(f"{paths[1]} is damaged ({error}).", "save the adapter again.") from error
    return layers, name, tensors, noted


def check_plain(config: Mapping[str, Any], method: str, folder: Path) -> None:
    """Refuse a folder whose layers compute what we do not.

    Raises:
        DataError: with the first setting that is another.
    """
    for key, value in PLAIN.items():
        if key not in STARTS and config.get(key, value) != value:
            refuse(key, config[key], method, folder)


def refuse(key: str, value: Any, method: str, folder: Path) -> NoReturn:
    """Raise the error that says which setting we do not compute.

    Raises:
        DataError: always.
    """
    raise DataError(
        f"{folder} has {key} = {value!r}, which {method} does not compute.",
        "load it with the library `adapters`, or train it again here.",
    )


def left_out(config: Mapping[str, Any], method: str, folder: Path) -> int:
    """How many of the first blocks have no layers.

    Raises:
        DataError: others than the first ones are left out.
    """
    blocks = sorted(config.get("leave_out") or [])
    if blocks != list(range(len(blocks))):
        refuse("leave_out", blocks, method, folder)
    return len(blocks)


def function_of(config: Mapping[str, Any], method: str, folder: Path) -> str:
    """Our name of the non-linearity.

    Raises:
        DataError: we have none such.
    """
    theirs = str(config["non_linearity"]).lower()
    for ours, name in FUNCTIONS.items():
        if theirs in (ours, name):
            return ours
    refuse("non_linearity", theirs, method, folder)
