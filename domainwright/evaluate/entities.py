"""Sentences whose words a head tags: the likeliest tag of each, decoded to entities.

Dimension key: N words, C tags.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from domainwright.core.errors import ConfigError
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Extraction
from domainwright.infer.labels import label_logits
from domainwright.maths.spans import OUTSIDE, Span, is_tag, spans_of
from domainwright.models.base import Base
from domainwright.models.forms import word_tokens


def tags_words(base: Base) -> bool:
    """Whether the head on the base, if any, tags words.

    Raises:
        ConfigError: it does something else, or its labels are no tags.
    """
    head = base.hooks.head
    if head is None:
        return False
    if head.kind != "labelling" or not all(map(is_tag, head.labels)):
        shown = ", ".join(head.labels[:5])
        raise ConfigError(
            f"The head on {base.source.name} knows {shown}, and words want tags such as B-DRUG.",
            "use an adapter that was trained on tagged rows, or one without a head.",
        )
    return True


class Tagging:
    """What the head says about one sentence."""

    def __init__(self, row: Extraction, logits_NC: Tensor, labels: Sequence[str]) -> None:
        self._row, self._logits_NC, self._labels = row, logits_NC, labels

    @property
    def spans(self) -> list[Span]:
        """The entities; of words beyond the base's context none."""
        tags = [self._labels[n] for n in self._logits_NC.argmax(1).tolist()]
        return spans_of(tags + [OUTSIDE] * (len(self._row.words) - len(tags)))

    @property
    def loss(self) -> tuple[float, int]:
        """(nats of the true tags, how many the head knows)."""
        known = [n for n, tag in enumerate(self._row.tags) if tag in self._labels]
        known = [n for n in known if n < len(self._logits_NC)]
        true = [self._labels.index(self._row.tags[n]) for n in known]
        odds_NC = self._logits_NC.cpu().log_softmax(1)
        return -float(odds_NC[known, true].sum()), len(known)


def tagged(
    base: Base, rows: Sequence[Extraction], *, listen: Listener = quiet, stage: str = "entities"
) -> tuple[list[Tagging], list[int], float]:
    """(what the head on the base says, tokens of each sentence, seconds of each)."""
    head = base.hooks.head
    assert head is not None, "asked only where `tags_words` holds"
    encoded = [word_tokens(base.template, row.words) for row in rows]
    # Words that the base cannot read are told to be no entities.
    documents = [ids[: base.context] for ids, _ in encoded]
    begun = time.perf_counter()
    logits = label_logits(base, documents, every=True, listen=listen, stage=stage)
    seconds = (time.perf_counter() - begun) / max(1, len(rows))
    found = [
        Tagging(row, said[torch.tensor(last[: base.context], device=said.device)], head.labels)
        for row, (_, last), said in zip(rows, encoded, logits, strict=True)
    ]
    return found, [len(ids) for ids in documents], seconds
