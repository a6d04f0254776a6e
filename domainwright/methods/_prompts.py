"""What the methods in prompt space share: where they act, and how PEFT writes them down."""

from typing import Any

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.models.base import Base
from domainwright.models.points import Site

INSTRUCTION = "You are a careful expert. Read the question and give the right answer briefly."
"""What learned rows start from where a study gives no instruction of its domain."""


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
