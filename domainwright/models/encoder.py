"""Sentence vectors from the embedded encoder, for dense retrieval and nearest examples.

    e = normalise(mean over tokens of the last hidden states)

Source: all-MiniLM-L6-v2 (Reimers & Gurevych 2019, arXiv:1908.10084): mean pooling, 384
dimensions, at most 256 tokens.
"""

from collections.abc import Sequence
from functools import cache as once
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from domainwright.core.artifacts import sha256_json
from domainwright.core.progress import Listener, Step, quiet
from domainwright.models.base import fast_dtype
from domainwright.models.embedded import encoder_folder, quiet_transformers

MAX_TOKENS = 256
BATCH = 32

KEPT = 10_000
"""Vectors of single texts that are kept: 15 MB."""


class Encoder:
    """Loads the encoder once; `encode` gives unit vectors.

    Args:
        dtype: of weights and activations. None: what this machine is fast at; bfloat16 moves a
            cosine by less than 0.01 and reads texts about twice as fast (256 passages, 2 cores).
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = encoder_folder()
        with quiet_transformers():
            self.model = AutoModel.from_pretrained(
                folder, add_pooling_layer=False, dtype=dtype or fast_dtype("cpu")
            ).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._asked: dict[str, np.ndarray] = {}

    def vector(self, text: str) -> np.ndarray:
        """Unit vector (384); several strategies search for the same question."""
        if text not in self._asked:
            self._asked[text] = self.encode([text])[0]
            while len(self._asked) > KEPT:
                del self._asked[next(iter(self._asked))]
        return self._asked[text]

    def keep(self, texts: Sequence[str], cache: Path | None = None) -> None:
        """Find the vectors of texts that will be asked one by one, all at once."""
        self._asked |= dict(zip(texts, self.encode(list(texts), cache=cache), strict=True))

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], listen: Listener = quiet, *, cache: Path | None = None
    ) -> np.ndarray:
        """Unit vectors (texts, 384), float32, in the order given.

        Args:
            cache: folder in which the vectors of these very texts are kept and looked for.
        """
        if cache is None:
            return self._encode(texts, listen)
        file = cache / f"{sha256_json([str(self.model.dtype), *texts])[:24]}.safetensors"
        try:
            return load_file(file)["vectors"].numpy()
        except (OSError, SafetensorError):
            vectors = self._encode(texts, listen)  # never made, or damaged: made anew
        cache.mkdir(parents=True, exist_ok=True)
        # save_file writes under a temporary name and renames: never half a file.
        save_file({"vectors": torch.from_numpy(vectors)}, file)
        return vectors

    def _encode(self, texts: Sequence[str], listen: Listener) -> np.ndarray:
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
            states = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None]
            mean = (states * mask).sum(1) / mask.sum(1)
            vectors[chosen] = torch.nn.functional.normalize(mean, dim=-1).numpy()
            listen(Step("read texts", min(start + BATCH, len(order)), len(order)))
        return vectors


@once
def default_encoder() -> Encoder:
    """The one encoder of this process."""
    return Encoder()
