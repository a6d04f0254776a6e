"""New words of an adapter: made from a setting, or found in the tokenizer beside an adapter.

    new_tokens: [metformin]  ->  two tokens: "metformin" and " metformin"

As a tokenizer's own words a new one has a form alone and one after a space, and with the space
written that one alone. It is found wherever its letters stand, within longer words as well.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.methods._token_rows import table_of
from domainwright.models.base import Base
from domainwright.models.new_words import NewWords, plain_tokenizer

TOKENIZER = "tokenizer_config.json"
"""Where it lies, the adapter's folder holds a tokenizer."""


def new_words(base: Base, words: Sequence[str]) -> NewWords:
    """Words that become tokens.

    Raises:
        ConfigError: one is a token already, or the tokenizer does not read and write it back.
        CapabilityError: the base's tokenizer has tokens without rows.
    """
    plain = plain_tokenizer(base)
    forms: dict[str, str] = {}
    for word in words:
        if word.strip() in plain.all_special_tokens:
            raise ConfigError(
                f"lora.new_tokens names {word!r}, a special token of {base.source.name}.",
                "leave it out: it has a token already.",
            )
        for form in [word] if word.startswith(" ") else [word, " " + word]:
            read = plain(form, add_special_tokens=False).input_ids
            if len(read) == 1 and read[0] != plain.unk_token_id:
                raise ConfigError(
                    f"lora.new_tokens names {word!r}, and {form!r} is one token of "
                    f"{base.source.name} already.",
                    f"name it under `tokens`: methods: {{lora: {{tokens: [{word}]}}}}.",
                )
            if form in forms:
                raise ConfigError(
                    f"lora.new_tokens: {forms[form]!r} and {word!r} name the same word.",
                    f"leave {word!r} out.",
                )
            forms[form] = word
    found = _made(base, [AddedToken(form, normalized=False) for form in forms])
    for text, token in zip(found.texts, found.ids, strict=True):
        back = found.tokenizer.decode([token])
        if found.tokenizer(text, add_special_tokens=False).input_ids != [token] or back != text:
            raise ConfigError(
                f"lora.new_tokens names {forms[text]!r}, which the tokenizer of "
                f"{base.source.name} reads or writes as something else ({back!r}) once it is a "
                "token.",
                "leave it out.",
            )
    return found


def beside(base: Base, folder: Path, named: Sequence[int]) -> NewWords | None:
    """The words that the tokenizer in an adapter's folder has beyond the base's; None: none.

    Args:
        named: the tokens whose rows the adapter holds.

    Raises:
        DataError: rows are named that neither has, or words whose rows are nowhere.
    """
    plain = plain_tokenizer(base)
    known = len(plain)
    if max(named, default=0) < known:
        return None
    if not (folder / TOKENIZER).is_file():
        if max(named) < len(table_of(base)):  # a row that no text leads to
            return None
        raise DataError(
            f"{folder} names tokens that {base.source.name} does not have (up to {max(named)}), "
            "and there is no tokenizer beside it that says which words they are.",
            "save the tokenizer it was trained with there: tokenizer.save_pretrained.",
        )
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    fresh = {n: text for n, text in sorted(theirs.added_tokens_decoder.items()) if n >= known}
    shared = {text: n for text, n in theirs.get_vocab().items() if n < known}
    whole = list(fresh) == list(range(known, known + len(fresh)))
    if not whole or max(named) not in fresh or shared != plain.get_vocab():
        raise DataError(
            f"The tokenizer in {folder} is not that of {base.source.name} with words added to it.",
            "load it on the base it was trained on.",
        )
    bare = [str(text) for token, text in fresh.items() if token not in named]
    if bare:
        raise DataError(
            f"{folder} adds {bare} to the tokenizer, and holds no rows of the embedding for them.",
            "add them to trainable_token_indices and train it again, or load it with PEFT.",
        )
    return _made(base, list(fresh.values()))


def named(
    own: Mapping[str, Any], base: Base, ids: Sequence[int], words: NewWords | None
) -> dict[str, Any]:
    """The settings `tokens` and `new_tokens` of a folder: as its run named them; of PEFT's, as the
    tokenizer writes them."""
    fresh = words.ids if words else ()
    known = plain_tokenizer(base).convert_ids_to_tokens([x for x in ids if x not in fresh])
    return {
        "tokens": tuple(own.get("tokens") or known) or None,
        "new_tokens": tuple(own.get("new_tokens") or (words.texts if words else ())) or None,
    }


def _made(base: Base, words: Sequence[AddedToken]) -> NewWords:
    plain, rows = plain_tokenizer(base), len(table_of(base))
    if len(plain) > rows:
        raise CapabilityError(
            f"The tokenizer of {base.source.name} has {len(plain)} tokens, and its embedding "
            f"{rows} rows, so a new word has no place.",
            "widen the base with model.resize_token_embeddings, or leave `new_tokens` out.",
        )
    tokenizer: Any = copy.deepcopy(plain)
    tokenizer.add_tokens(list(words))
    texts = tuple(word.content for word in words)
    return NewWords(
        texts,
        tuple(tokenizer.convert_tokens_to_ids(list(texts))),
        tuple(tuple(plain(text, add_special_tokens=False).input_ids) for text in texts),
        tokenizer,
        plain,
    )
