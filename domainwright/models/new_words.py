"""More words than the base's tokenizer has, while something that brings them is in use.

    E' = [E; e]        e_w = mean of E over the pieces that w is split into today

The tokenizer, the template and both tables are exchanged for wider ones and put back afterwards:
the base's own are never written to, so it is bit for bit itself again. Whatever hangs on the base
meanwhile, and whoever reads it as untouched (`Hooks.disabled`), finds the wider ones with their
rows as they began. Where the base has more rows than its tokenizer has tokens, the first new words
take those, and only what is beyond the table widens it.

Source of the start: Gee et al. 2022, arXiv:2402.09977 (fast vocabulary transfer). Hewitt 2021,
"Initializing new word embeddings for pretrained language models", says why random rows will not do:
a logit far above all others takes all the probability.

Dimension key: V tokens of the base, n new words, D hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from domainwright.core.errors import CapabilityError
from domainwright.models.template import Template

if TYPE_CHECKING:
    from domainwright.models.base import Base


@dataclass(frozen=True)
class NewWords:
    """Words with tokens of their own. Equal where the words are, in their order."""

    texts: tuple[str, ...]
    """As the tokenizer finds them, a leading space included."""
    ids: tuple[int, ...] = field(compare=False)
    pieces: tuple[tuple[int, ...], ...] = field(compare=False)
    """The tokens that each was before."""
    tokenizer: Any = field(compare=False)
    """The base's own with these words."""
    plain: Any = field(compare=False)
    """The base's own."""

    def rows(self, own_VD: Tensor) -> Tensor:
        """A table with the new rows as they begin."""
        size = max(len(own_VD), 1 + max(self.ids))
        wide = own_VD.new_zeros(size, own_VD.shape[1])
        wide[: len(own_VD)] = own_VD
        for token, pieces in zip(self.ids, self.pieces, strict=True):
            wide[token] = own_VD[list(pieces)].float().mean(0).to(own_VD.dtype)
        return wide


def plain_tokenizer(base: "Base") -> Any:
    """The base's own tokenizer, whatever words it reads now."""
    return base.tokenizer if base.words is None else base.words.plain


@contextmanager
def reading(base: "Base", words: NewWords | None) -> Iterator[None]:
    """Inside this block the base reads and writes these words too; None: nothing changes.

    Nothing is done where it does already. What covers the tables hangs on the base within the
    block and is taken off before it ends.

    Raises:
        CapabilityError: it reads other new words now.
    """
    if words is None or base.words == words:
        yield
        return
    if base.words is not None:
        raise CapabilityError(
            f"Two adapters bring new words to {base.source.name}: {list(base.words.texts)} and "
            f"{list(words.texts)}.",
            "detach the first one before the second is attached.",
        )
    tokenizer, template, config = base.tokenizer, base.template, base.model.config
    sized = config.get_text_config()
    tables = [base.model.get_input_embeddings(), base.model.get_output_embeddings()]
    own = [table._parameters["weight"] for table in tables]
    sizes = [{k: vars(t)[k] for k in SIZES if k in vars(t)} for t in tables]
    count = sized.vocab_size
    wide = _wide(words, own)
    try:
        base.words, base.tokenizer, base.template = (
            words,
            words.tokenizer,
            Template(words.tokenizer),
        )
        for table, weight, named in zip(tables, wide, sizes, strict=True):
            table._parameters["weight"] = weight
            vars(table).update(dict.fromkeys(named, len(weight)))
        sized.vocab_size = len(wide[0])
        yield
    finally:
        base.words, base.tokenizer, base.template = None, tokenizer, template
        for table, weight, named in zip(tables, own, sizes, strict=True):
            table._parameters["weight"] = weight
            vars(table).update(named)
        sized.vocab_size = count


SIZES = ("num_embeddings", "out_features")
"""What an embedding and a head call the number of their rows."""


@torch.no_grad()
def _wide(words: NewWords, own: list[Any]) -> list[nn.Parameter]:
    """The wider weight of each table; what is one weight stays one."""
    made: dict[int, nn.Parameter] = {}
    for weight in own:
        if id(weight) not in made:
            made[id(weight)] = nn.Parameter(words.rows(weight.detach()), requires_grad=False)
    return [made[id(weight)] for weight in own]
