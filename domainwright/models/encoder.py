"""Sentence vectors from the embedded encoder, for dense retrieval and nearest examples.

    e = normalise(mean over tokens of the last hidden states)

Source: all-MiniLM-L6-v2 (Reimers & Gurevych 2019, arXiv:1908.10084): mean pooling, 384
dimensions, at most 256 tokens.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from domainwright.core.progress import Listener, Step, quiet
from domainwright.models.embedded import encoder_folder, quiet_transformers

MAX_TOKENS = 256
BATCH = 32


class Encoder:
    """Loads the encoder once; `encode` gives unit vectors."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = encoder_folder()
        with quiet_transformers():
            self.model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], listen: Listener = quiet) -> np.ndarray:
        """Unit vectors (texts, 384), float32, in the order given."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            batch = self.tokenizer(
                [texts[i] for i in chosen],
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            states = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            mean = (states * mask).sum(1) / mask.sum(1)
            vectors[chosen] = torch.nn.functional.normalize(mean, dim=-1).numpy()
            listen(Step("read texts", min(start + BATCH, len(order)), len(order)))
        return vectors


@cache
def default_encoder() -> Encoder:
    """The one encoder of this process."""
    return Encoder()
