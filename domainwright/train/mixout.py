"""Mixout: at every step each changed weight is, by chance, the base's own again.

    θ̃ = (μ ⊙ θ₀ + (1 - μ) ⊙ θ - p θ₀) / (1 - p)  =  θ₀ + (1 - μ) ⊙ (θ - θ₀) / (1 - p)

μ ~ Bernoulli(p), drawn anew for every step; the mean over μ is θ. μ follows from (seed, step, name
of the parameter) alone, so all passes of a step see one mask, whatever their size, and a resumed
run the same ones. Only where gradients of a step are made: what is watched and kept is θ.

Source: Lee, Cho and Kang 2020, arXiv:1909.11299, equation 5 and section 6 (p from 0.7 to 0.9).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from domainwright.core.seeds import derive
from domainwright.models.base import Base


class Mixout:
    """The masks of one step, drawn where a weight is first read: a byte for each."""

    def __init__(self, share: float, seed: int, step: int) -> None:
        self.share, self.seed, self.step = share, seed, step
        self._kept: dict[str, Tensor] = {}

    def kept(self, name: str, like: Tensor) -> Tensor:
        """1 - μ: whether each value of the parameter called `name` is the trained one."""
        if name not in self._kept:
            # Drawn on the CPU: equal on every device.
            source = torch.Generator().manual_seed(derive(self.seed, "mixout", self.step, name))
            drawn = torch.empty(like.shape).uniform_(generator=source)
            self._kept[name] = (drawn >= self.share).to(like.device)
        return self._kept[name]

    def __call__(self, name: str, value: Tensor, own: Tensor) -> Tensor:
        """θ̃ of the trained `value` and the base's `own`."""
        own = own.detach().to(value.dtype)
        # From θ₀ on, not as a sum of three: a weight that has not moved stays it bit for bit.
        return torch.where(
            self.kept(name, value), torch.lerp(own, value, 1 / (1 - self.share)), own
        )


@contextmanager
def mixed(base: Base, share: float, seed: int, step: int) -> Iterator[None]:
    """Inside this block the base reads θ̃ of every weight that is replaced; at 0, θ itself."""
    if not share:
        yield
        return
    with base.hooks.reading(Mixout(share, seed, step)):
        yield
