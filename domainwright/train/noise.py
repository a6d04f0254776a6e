"""NEFTune: uniform noise on the embeddings of a training row.

    x + U(-1, 1) · α / √(s · d)        s tokens of the row, d hidden size

s is the row's own length, whatever it is packed with; the reference implementation takes the
padded one. The noise follows from (seed, step, the row's place in the step) alone, so neither
packing nor the size of a pass changes it. Only where gradients are made: a reading without them
is that of the model itself.

Source: Jain et al. 2023, arXiv:2310.05914, algorithm 1.
Dimension key: T tokens of a flat batch, D hidden size.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from domainwright.core.seeds import derive
from domainwright.models.base import Base
from domainwright.models.flat import Flat


class EmbeddingNoise:
    """The noise of one step. `begin` is told every pass before it is read, in order."""

    def __init__(self, width: int, strength: float, seed: int, step: int, copies: int) -> None:
        self.width, self.strength = width, strength
        self.seed, self.step, self.copies = seed, step, copies
        self._rows = 0
        """Rows of the passes so far."""
        self._left = torch.zeros(0, width)
        """Noise (T, D) of the tokens that are still to be read."""

    def begin(self, flat: Flat) -> None:
        lengths = [d.stop - d.start for d in flat.documents()]
        count = len(lengths) // self.copies
        self._left = torch.cat(
            [
                self.of(self._rows + i % count, i // count, length)
                for i, length in enumerate(lengths)
            ]
        )
        self._rows += count

    def of(self, row: int, copy: int, length: int) -> Tensor:
        """Of the row at that place in the step, in its first or second reading."""
        # Drawn on the CPU: equal on every device.
        source = torch.Generator().manual_seed(derive(self.seed, "neftune", self.step, row, copy))
        noise_TD = torch.empty(length, self.width).uniform_(-1, 1, generator=source)
        return noise_TD * (self.strength / math.sqrt(length * self.width))

    def added(self, embedded: Tensor) -> Tensor:
        """The embeddings (…, T, D) with noise; rows that only fill the batch have none."""
        count = embedded.shape[-2]
        noise_TD, self._left = self._left[:count], self._left[count:]
        noise_TD = functional.pad(noise_TD, (0, 0, 0, count - len(noise_TD)))
        return embedded + noise_TD.to(embedded)


@contextmanager
def embedding_noise(
    base: Base, strength: float, seed: int, step: int, copies: int = 1
) -> Iterator[EmbeddingNoise | None]:
    """Inside this block training passes read noisy embeddings; None, with nothing done, at 0."""
    if not strength:
        yield None
        return
    module = base.model.get_input_embeddings()
    noise = EmbeddingNoise(module.weight.shape[1], strength, seed, step, copies)
    # An adapter's own change of the embeddings hangs on the instance too: noise comes after it.
    before, plain = module.__dict__.get("forward"), module.forward

    def forward(*inputs: Any, **named: Any) -> Any:
        out = plain(*inputs, **named)
        return noise.added(out) if torch.is_grad_enabled() else out

    module.forward = forward
    try:
        yield noise
    finally:
        del module.forward
        if before is not None:
            module.forward = before
