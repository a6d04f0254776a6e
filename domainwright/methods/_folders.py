"""Which method an adapter folder is of, whoever wrote it."""

import json
from pathlib import Path
from typing import Any

from domainwright.core.errors import DataError
from domainwright.methods._peft_format import OWN

OF_PEFT = {
    "IA3": "ia3",
    "LN_TUNING": "layernorm",
    "LORA": "lora",
    "MULTITASK_PROMPT_TUNING": "multitask_prompt",
    "P_TUNING": "ptuning",
    "PREFIX_TUNING": "prefix",
    "PROMPT_TUNING": "prompt",
}
"""PEFT's types -> methods of this house. Every other type is called by its own name."""


def method_of(folder: Path) -> str:
    """The method's name for `METHODS.get`: what Domainwright noted, or what the config says.

    Raises:
        DataError: there is no config, or it is neither PEFT's nor adapter-hub's.
    """
    noted = _json(folder / OWN) if (folder / OWN).is_file() else {}
    if "method" in noted:
        return str(noted["method"]).partition("@")[0]
    config = _json(folder / "adapter_config.json")
    kind = config.get("peft_type")
    if kind is not None:
        if kind == "LORA" and config.get("use_dora"):
            return "dora"
        return OF_PEFT.get(str(kind), f"peft:{str(kind).lower()}")
    layers = config.get("config")
    if isinstance(layers, dict) and "reduction_factor" in layers:
        return "compacter" if layers.get("phm_layer") else "bottleneck"
    raise DataError(
        f"{folder / 'adapter_config.json'} names no method that is known here.",
        "give the `adapter` folder of a run, or a folder saved by PEFT or adapter-hub.",
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"{path.parent} lacks {path.name}: it is no adapter folder.",
            "give the `adapter` folder of a run, or a folder saved by PEFT or adapter-hub.",
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}).", "save the adapter again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no settings.", "save the adapter again.")
    return found
