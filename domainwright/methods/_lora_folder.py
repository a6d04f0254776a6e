"""Folders of the LoRA family: what is read from them, and what a method does not compute."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from domainwright.core.errors import DataError
from domainwright.methods import _new_words, _peft_format, _starts, _token_rows
from domainwright.methods._lora_settings import LoraSettings, chosen_embedding
from domainwright.methods._past import Past
from domainwright.models.base import Base

EMBEDDING = (".lora_embedding_A", ".lora_embedding_B")
"""In PEFT's file, after the embedding's path, where the rest has `.lora_A.weight`."""


def load(base: Base, folder: Path, settings_of: type[LoraSettings], adapter_of: Any) -> Any:
    """An adapter saved by us or by PEFT, checked key by key.

    Args:
        adapter_of: the class of the method's adapter.

    Raises:
        DataError: another base, a missing or surplus tensor, or a LoRA variant that the method
            does not compute.
    """
    config, tensors, noted = _peft_format.read(folder)
    _peft_format.check_base(noted, base.sha256, base.source.name, folder)
    if noted:
        _peft_format.check_method(noted, adapter_of.method, folder)
    check_variant(config, adapter_of.method, adapter_of.version, folder)
    linears = base.hooks.linears
    tokens, of_head = _token_rows.declared(config, base, folder)
    words = _new_words.beside(base, folder, (*tokens, *of_head))
    widened = tokens or any(name.endswith(EMBEDDING[0]) for name in tensors)
    tensors = _token_rows.without_copies(tensors, base, folder) if widened else tensors
    layered = [name for name in tensors if not name.endswith(_token_rows.TAIL)]
    paths = {name.rsplit(".lora_", 1)[0] for name in layered}
    whole = {name.removesuffix(EMBEDDING[0]) for name in layered if name.endswith(EMBEDDING[0])}
    sites = [x for x in base.hooks.at("embedding") if x.path in whole]
    strange = paths - {x.path for x in linears} - {x.path for x in sites}
    if strange:
        raise DataError(
            f"{folder} adapts {min(strange)!r}, which the base does not have.",
            "load it on the base it was trained on.",
        )
    own = noted.get("settings", {})
    # With a past, the file holds it: the ranks of both are the adapter's now.
    given = {f.name: own[f.name] for f in fields(settings_of) if f.name in own and f.name != "past"}
    if given.get("start") not in _starts.COUNTED:  # else the file's rank is not the adapter's
        given |= {
            "rank": int(config["r"]),
            "alpha": float(config["lora_alpha"]),
            "rank_pattern": dict(config.get("rank_pattern") or {}),
            "alpha_pattern": dict(config.get("alpha_pattern") or {}),
        }
    given |= {
        "dropout": float(config.get("lora_dropout", 0.0)),
        "rslora": bool(config.get("use_rslora")),
        "targets": tuple(sorted(paths)),
        **_new_words.named(own, base, tokens, words),
    }
    settings = settings_of(**given)
    # What the config declares counts as well: PEFT leaves a layer without tensors bare.
    paths |= _peft_format.declared(config, {x.path: x.block for x in linears})
    adapter = adapter_of(base, settings, [x for x in linears if x.path in paths])
    if (site := chosen_embedding(sites, settings)) is not None:
        adapter.change_embedding(site)
    adapter.past = Past(holds=tuple(noted.get("past", ())))
    if tokens:
        adapter.learn_tokens(tokens, words, of_head)
    adapter.restore(tensors, folder)
    return adapter


VARIANTS = (
    "modules_to_save",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "arrow_config",
)
"""Settings of PEFT's LoraConfig that change what is computed."""


def check_variant(config: dict[str, Any], method: str, version: int, folder: Path) -> None:
    """Refuse a folder of a variant that the method does not compute.

    Raises:
        DataError: with the setting that says so.
    """
    found = {key: config[key] for key in VARIANTS if config.get(key)}
    if bool(config.get("use_dora")) != (method == "dora"):
        found["use_dora"] = config.get("use_dora", False)
    if config.get("peft_type") != "LORA":
        found = {"peft_type": config.get("peft_type")}
    # Other named starts (PiSSA, OLoRA, …) also changed the weights of the base.
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start not in ("gaussian", "eva", "orthogonal"):
        found["init_lora_weights"] = start
    for key, value in found.items():
        other = "lora" if method == "dora" else "dora"
        raise DataError(
            f"{folder} uses {key} = {value!r}, which {method}@{version} does not compute.",
            f"load it with {other if key == 'use_dora' else 'PEFT'}, or train it again with "
            f"{method}.",
        )
