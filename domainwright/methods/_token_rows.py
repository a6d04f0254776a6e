"""Words whose rows of the embedding are learned beside an adapter, and PEFT's names for them.

    tokens: [" dose", "mg"]  ->  one row of D numbers each, which starts as the base's own

A word names the token it is alone and the one it is after a space, whichever the tokenizer has;
with the space written it names that one. This is what PEFT calls `trainable_token_indices`: with
untied weights the embedding's rows are learned and the head stays, with tied ones both are one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.models.base import Base

KEY = "trainable_token_indices"
"""In PEFT's config: token ids, or {name of the module: token ids}."""
TAIL = ".token_adapter.trainable_tokens_delta"
"""In PEFT's file, after the module's path."""


def check_words(words: Sequence[str] | None) -> None:
    """Refuse what can be told without a tokenizer.

    Raises:
        ConfigError: no word, an empty one, or one twice.
    """
    if words is None:
        return
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise ConfigError(
            f"lora.tokens is {list(words)!r}, which names no word."
            if not words
            else "lora.tokens holds an empty word.",
            "give words such as [mg, dose], or leave `tokens` out.",
        )
    twice = next((word for n, word in enumerate(words) if word in words[:n]), None)
    if twice is not None:
        raise ConfigError(f"lora.tokens names {twice!r} twice.", "name each word once.")


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
    tokenizer, rows = base.tokenizer, len(embedding_of(base)[1]._parameters["weight"])  # type: ignore[arg-type]
    forms = [word] if word.startswith(" ") else [word, " " + word]
    read = [tokenizer(form, add_special_tokens=False).input_ids for form in forms]
    found = [ids[0] for ids in read if len(ids) == 1 and ids[0] != tokenizer.unk_token_id]
    if not found:
        parts = " + ".join(repr(tokenizer.decode([i])) for i in read[0])
        raise ConfigError(
            f"lora.tokens names {word!r}, which is no token of {base.source.name} but {parts}.",
            "leave it out (lora learns such a word without it), or make it a token first: "
            "tokenizer.add_tokens, model.resize_token_embeddings, save_pretrained of both, and "
            "give that folder as `base`.",
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
        "leave `lora.tokens` out, or load the base without quantised embeddings.",
    )


def rows_of(base: Base, ids: Sequence[int]) -> nn.Parameter:
    """The base's own rows (n, D), float32, to begin with.

    Raises:
        CapabilityError: a head that should share them holds another weight.
    """
    wanted = getattr(base.model.config, "tie_word_embeddings", False)
    if wanted and _head(base) is not None and not base.hooks.tied:
        raise CapabilityError(
            f"The head of {base.source.name} is tied to its embedding by config.json, but holds a "
            "weight of its own (quantised, or a copy), so the learned rows would part.",
            "load the base with a head in full weights, or leave `lora.tokens` out.",
        )
    own = embedding_of(base)[1]._parameters["weight"]
    assert own is not None
    index = torch.tensor(ids, dtype=torch.long, device=own.device)
    return nn.Parameter(own.detach()[index].float())


def declared(config: dict[str, Any], base: Base, folder: Path) -> tuple[int, ...]:
    """The tokens that a PEFT config says are learned; empty: none.

    Raises:
        DataError: they are rows of something else than the embedding.
    """
    said = config.get(KEY)
    if not said:
        return ()
    path, module = embedding_of(base)
    tables = said if isinstance(said, dict) else {path: said}
    head = next((n for n, m in base.model.named_modules() if m is _head(base)), None)
    known = [path, *([head] if head and base.hooks.tied else [])]
    lists = list({tuple(ids): None for ids in tables.values()})
    strange = [t for t in tables if not any(k == t or k.endswith("." + t) for k in known)]
    if strange or len(lists) != 1:
        raise DataError(
            f"{folder} learns token rows of {sorted(tables)}, and {base.source.name} has them in "
            f"{' and '.join(known)} alone, the same rows.",
            "load it with PEFT, or train it again.",
        )
    rows = len(module._parameters["weight"])  # type: ignore[arg-type]
    if not all(0 <= token < rows for token in lists[0]) or len(set(lists[0])) < len(lists[0]):
        raise DataError(
            f"{folder} names tokens that {base.source.name} does not have, or one twice.",
            "load it on the base it was trained on.",
        )
    return lists[0]


def _head(base: Base) -> Any:
    return base.model.get_output_embeddings()
