"""What the head on a base says about documents, read in packed passes.

Dimension key: C labels, N asked tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from domainwright.core.errors import ConfigError
from domainwright.core.progress import Listener, Step, quiet
from domainwright.models.base import Base
from domainwright.models.flat import flatten

PASS = 4096
"""Tokens read at once."""


@torch.no_grad()
def label_logits(
    base: Base,
    documents: Sequence[list[int]],
    *,
    every: bool = False,
    listen: Listener = quiet,
    stage: str = "labels",
) -> list[Tensor]:
    """Logits of every document, float32: (C) at its last token, or (N, C) at each with `every`.

    Raises:
        ConfigError: no head hangs on the base, or a document exceeds the base's context.
    """
    head = base.hooks.head
    if head is None:
        raise ConfigError(
            f"No adapter on {base.source.name} has a head for labels.",
            "attach one that was trained on labels.",
        )
    longest = max(map(len, documents), default=0)
    if longest > base.context:
        raise ConfigError(
            f"A document of {longest} tokens exceeds the context of {base.context} tokens of "
            f"{base.source.name}.",
            "shorten it.",
        )
    found: list[Tensor] = []
    while len(found) < len(documents):
        taken = [documents[len(found)]]
        for document in documents[len(found) + 1 :]:
            if sum(map(len, taken)) + len(document) > PASS:
                break
            taken.append(document)
        flat = flatten(taken, base.device)
        if every:
            logits = head(base.hidden(flat))
            found += [logits[part] for part in flat.documents()]
        else:
            last_N = torch.tensor([part.stop - 1 for part in flat.documents()], device=base.device)
            found += list(head(base.hidden(flat, last_N)))
        listen(Step(stage, len(found), len(documents)))
    return found
