"""Sentence vectors from the embedded encoder, for dense retrieval and nearest examples.

    e = normalise(mean over tokens of the last hidden states)

Source: all-MiniLM-L6-v2 (Reimers & Gurevych 2019, arXiv:1908.10084): mean pooling, 384
dimensions, at most 256 tokens.
"""

import copy
from collections.abc import Mapping, Sequence
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
        folder: of another encoder. None: the embedded one.
    """

    def __init__(self, dtype: torch.dtype | None = None, folder: Path | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = folder or encoder_folder()
        with quiet_transformers():
            self.model = AutoModel.from_pretrained(
                folder, add_pooling_layer=False, dtype=dtype or fast_dtype("cpu")
            ).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.name = ""
        """Hash of what was tuned; empty: nothing was."""
        self._asked: dict[str, np.ndarray] = {}

    def changed(self, change: Mapping[str, torch.Tensor], name: str) -> "Encoder":
        """A second encoder with changed weights; this one stays as it is.

        Args:
            change: new values by the parameters' names, or the factors NAME.A and NAME.B of a
                product that is added.
            name: of what was changed; kept vectors are looked for under it.
        """
        other = copy.copy(self)
        other.model, other.name, other._asked = copy.deepcopy(self.model), name, {}
        with torch.no_grad():
            for path, parameter in other.model.named_parameters():
                if path in change:
                    parameter.copy_(change[path])
                if f"{path}.A" in change:
                    product = change[f"{path}.B"] @ change[f"{path}.A"]
                    parameter.copy_(parameter.float() + product)
        return other

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
        own = [self.name] if self.name else []
        key = sha256_json([str(self.model.dtype), *own, *texts])
        file = cache / f"{key[:24]}.safetensors"
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
            vectors[chosen] = self.pooled([texts[i] for i in chosen]).numpy()
            listen(Step("read texts", min(start + BATCH, len(order)), len(order)))
        return vectors

    def pooled(self, texts: Sequence[str], max_tokens: int = MAX_TOKENS) -> torch.Tensor:
        """Unit vectors (texts, 384) of one pass, float32; with a graph where gradients are on."""
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
        )
        states = self.model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1)


@once
def default_encoder() -> Encoder:
    """The one encoder of this process."""
    return Encoder()
