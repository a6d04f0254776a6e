"""What the methods in prompt space share: where they act, and how PEFT writes them down."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.methods import _peft_format
from domainwright.models.base import Base
from domainwright.models.points import Site

INSTRUCTION = "You are a careful expert. Read the question and give the right answer briefly."
"""What learned rows start from where a study gives no instruction of its domain."""

ENCODER = "encoder.safetensors"
"""The network that makes the rows, beside the adapter's file. PEFT keeps the rows alone and passes
this file over; with it, training can go on."""


class Shift:
    """Moves the text's positions behind the learned rows, as PEFT's cache does."""

    def __init__(self, shift: int) -> None:
        self.shift = shift

    def __call__(self, *_: Any) -> None:
        raise TypeError("a shift is read, not called")


def attending(base: Base, method: str) -> list[Site]:
    """The attention modules, one a block, in order.

    Raises:
        CapabilityError: the base does not attend through our plug-in in every block.
    """
    sites = base.hooks.at("attention")
    if base.feeding != "packed" or len(sites) != len(base.hooks.at("block")):
        raise CapabilityError(
            f"{base.source.name} has no attention that takes more keys and values in every block "
            f"(documents are fed {base.feeding!r}): {method} has no place there.",
            "choose lora, or bottleneck.",
        )
    return sites


def positions(base: Base, method: str) -> Site:
    """The module that reads positions.

    Raises:
        CapabilityError: there is none, or several.
    """
    sites = base.hooks.at("position")
    if len(sites) != 1:
        raise CapabilityError(
            f"{base.source.name} has {len(sites)} modules that read positions, not one, so "
            f"{method} cannot move the text behind its rows.",
            "choose lora, or bottleneck.",
        )
    return sites[0]


def tokens(base: Base, text: str, count: int, method: str) -> list[int]:
    """The text's tokens, repeated or cut to `count`.

    Raises:
        ConfigError: no token, or more than half of the context.
    """
    if count > base.context // 2:
        raise ConfigError(
            f"{method}.rows is {count}, more than half of the context of {base.context} tokens.",
            "give a number such as 20.",
        )
    ids: list[int] = base.tokenizer(text, add_special_tokens=False).input_ids
    if not ids:
        raise ConfigError(f"{method}.text has no token.", "give an instruction of the domain.")
    return (ids * (count // len(ids) + 1))[:count]


def config(peft_type: str, base: Base, rows: int, width: int, heads: int) -> dict[str, Any]:
    """PEFT's config of a method in prompt space."""
    return {
        "peft_type": peft_type,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": base.source.name,
        "revision": None,
        "num_virtual_tokens": rows,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": len(base.hooks.at("block")),
    }


def write_encoder(folder: Path, network: nn.Module) -> None:
    """Write the network that makes the rows."""
    tensors = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, folder / ENCODER, metadata={"format": "pt"})


def fill_encoder(folder: Path, network: nn.Module, rows: Tensor) -> None:
    """Fill the network from its file and check that it makes the rows that are saved.

    Raises:
        DataError: the file is damaged, of another network, or of other rows.
    """
    try:
        tensors = load_file(folder / ENCODER)
    except SafetensorError as error:
        raise DataError(
            f"{folder / ENCODER} is damaged ({error}).",
            "remove it: the adapter answers without it, and trains on from its rows.",
        ) from error
    _peft_format.fill(network.state_dict(), tensors, folder)
    with torch.no_grad():
        made: Tensor = network().reshape(rows.shape)
    if float((made - rows).abs().max()) > 1e-4 * float(rows.abs().max()):
        raise DataError(
            f"{folder / ENCODER} makes other rows than those of the adapter's file.",
            "remove it: the adapter answers without it, and trains on from its rows.",
        )
