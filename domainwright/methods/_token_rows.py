"""Words whose rows of the embedding are learned beside an adapter, and PEFT's names for them.

    tokens: [" dose", "mg"]  ->  one row of D numbers each, which starts as the base's own

A word names the token it is alone and the one it is after a space, whichever the tokenizer has;
with the space written it names that one. This is what PEFT calls `trainable_token_indices`: with
untied weights the embedding's rows are learned and the head stays, with tied ones both are one.
Words that are no token yet (`_new_words`) have rows of an untied head as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.models.base import Base
from domainwright.models.new_words import plain_tokenizer

KEY = "trainable_token_indices"
"""In PEFT's config: token ids, or {name of the module: token ids}."""
TAIL = ".token_adapter.trainable_tokens_delta"
"""In PEFT's file, after the module's path."""
TABLES = (".weight", ".base_layer.weight", ".token_adapter.base_layer.weight")
"""Its names there for the whole table."""


def check_words(setting: str, words: Sequence[str] | None) -> None:
    """Refuse what can be told without a tokenizer.

    Args:
        setting: `tokens` or `new_tokens`.

    Raises:
        ConfigError: no word, an empty one, or one twice.
    """
    if words is None:
        return
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise ConfigError(
            f"lora.{setting} is {list(words)!r}, which names no word."
            if not words
            else f"lora.{setting} holds an empty word.",
            f"give words such as [mg, dose], or leave `{setting}` out.",
        )
    twice = next((word for n, word in enumerate(words) if word in words[:n]), None)
    if twice is not None:
        raise ConfigError(f"lora.{setting} names {twice!r} twice.", "name each word once.")


def ids_of(base: Base, words: Sequence[str]) -> tuple[int, ...]:
    """The tokens that words name, in their order.

    Raises:
        ConfigError: a word is no token of the base, or names one that another word names.
    """
    found: dict[int, str] = {}
    for word in words:
        for token in _tokens(base, word):
            if token in found:
                raise ConfigError(
                    f"lora.tokens: {found[token]!r} and {word!r} name the same token ({token}).",
                    f"leave {word!r} out.",
                )
            found[token] = word
    return tuple(found)


def _tokens(base: Base, word: str) -> list[int]:
    tokenizer, rows = plain_tokenizer(base), len(table_of(base))
    forms = [word] if word.startswith(" ") else [word, " " + word]
    read = [tokenizer(form, add_special_tokens=False).input_ids for form in forms]
    found = [ids[0] for ids in read if len(ids) == 1 and ids[0] != tokenizer.unk_token_id]
    if not found:
        parts = " + ".join(repr(tokenizer.decode([i])) for i in read[0])
        raise ConfigError(
            f"lora.tokens names {word!r}, which is no token of {base.source.name} but {parts}.",
            "leave it out (lora learns such a word without it), or name it under `new_tokens`, "
            "which makes it one.",
        )
    if max(found) >= rows:
        raise ConfigError(
            f"lora.tokens names {word!r}, token {max(found)}, and the embedding of "
            f"{base.source.name} has {rows} rows.",
            "widen the base with model.resize_token_embeddings, or leave the word out.",
        )
    return list(dict.fromkeys(found))


def embedding_of(base: Base) -> tuple[str, nn.Module]:
    """(path, module) of the table that tokens are looked up in.

    Raises:
        CapabilityError: there is none whose rows can be learned.
    """
    for site in base.hooks.at("embedding"):
        weight = site.module._parameters.get("weight")
        if isinstance(site.module, nn.Embedding) and weight is not None:
            if weight.is_floating_point():
                return site.path, site.module
            break
    raise CapabilityError(
        f"{base.source.name} has no embedding with full weights, so no row of it can be learned.",
        "leave it out of what is learned, or load the base without quantised embeddings.",
    )


def table_of(base: Base) -> Tensor:
    """The weight (V, D) that tokens are looked up in, without what an adapter stands in for."""
    own = embedding_of(base)[1]._parameters["weight"]
    assert own is not None
    return own.detach()


def rows_of(base: Base, ids: Sequence[int]) -> nn.Parameter:
    """The embedding's own rows (n, D), float32, to begin with.

    Raises:
        CapabilityError: a head that should share them holds another weight.
    """
    wanted = getattr(base.model.config, "tie_word_embeddings", False)
    if wanted and head_of(base)[1] is not None and not base.hooks.tied:
        raise CapabilityError(
            f"The head of {base.source.name} is tied to its embedding by config.json, but holds a "
            "weight of its own (quantised, or a copy), so the learned rows would part.",
            "load the base with a head in full weights, or leave `lora.tokens` out.",
        )
    return nn.Parameter(table_of(base)[list(ids)].float())


def head_rows_of(base: Base, ids: Sequence[int]) -> nn.Parameter:
    """The same of a head that is not tied.

    Raises:
        CapabilityError: its logits are more than a product with full weights.
    """
    _, head = head_of(base)
    weight = None if head is None else head._parameters.get("weight")
    plain = isinstance(head, nn.Linear) and head.bias is None
    if not plain or weight is None or not weight.is_floating_point():
        raise CapabilityError(
            f"The head of {base.source.name} is not tied to its embedding and is no linear layer "
            "in full weights without a bias, the only one whose rows PEFT can learn.",
            "leave `lora.new_tokens` out, or choose another base.",
        )
    return nn.Parameter(weight.detach()[list(ids)].float())


def declared(
    config: dict[str, Any], base: Base, folder: Path
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(tokens of the embedding, of an untied head) whose rows a PEFT config says are learned.

    Raises:
        DataError: they are rows of something else, or one is named twice.
    """
    said = config.get(KEY)
    if not said:
        return (), ()
    path, _ = embedding_of(base)
    head, _ = head_of(base)
    found: dict[str | None, tuple[int, ...]] = {}
    for name, ids in (said if isinstance(said, dict) else {path: said}).items():
        places = [k for k in (path, head) if k and (k == name or k.endswith("." + name))]
        found[places[0] if places else None] = tuple(ids)
    tied = base.hooks.tied and found.get(head, found.get(path)) == found.get(path)
    if None in found or path not in found or (base.hooks.tied and not tied):
        raise DataError(
            f"{folder} learns token rows of {sorted(said)}, and {base.source.name} has them in "
            f"{path}" + (f" and {head} alone, the same rows." if base.hooks.tied else " first."),
            "load it with PEFT, or train it again.",
        )
    of_head = () if base.hooks.tied else found.get(head, ())
    if any(min(ids) < 0 or len(set(ids)) < len(ids) for ids in (found[path], of_head) if ids):
        raise DataError(
            f"{folder} names a token twice, or one below 0.",
            "load it with PEFT, or train it again.",
        )
    return found[path], of_head


def without_copies(tensors: Mapping[str, Tensor], base: Base, folder: Path) -> dict[str, Tensor]:
    """A PEFT file's tensors without what PEFT adds where the base was widened: the whole tables,
    and the rows of a tied head once more.

    Raises:
        DataError: a table is not the base's own, so more was trained than its rows.
    """
    kept, (head, _) = dict(tensors), head_of(base)
    if base.hooks.tied:
        kept.pop(head + TAIL, None)
    for name, module in (embedding_of(base), head_of(base)):
        own: Tensor = module._parameters["weight"].detach()  # type: ignore[union-attr]
        for ending in TABLES:
            table = kept.pop(name + ending, own)
            count = min(len(own), len(table))
            if not torch.equal(table[:count].to(own), own[:count]):
                raise DataError(
                    f"{folder} holds a whole {name} that is not the base's, so all of it was "
                    "trained.",
                    "load it with PEFT.",
                )
    return kept


def head_of(base: Base) -> tuple[str, Any]:
    """(path, module) of what makes logits."""
    head = base.model.get_output_embeddings()
    return next((n for n, m in base.model.named_modules() if m is head), ""), head
