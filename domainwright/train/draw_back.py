"""A state that forgets too much, drawn back towards the start until it is within the limit.

    θ(s) = θ_start + s · (θ_trained - θ_start)         s in (0, 1]
    LoRA's kin begin at B = 0: B(s) = s · B_trained, A as trained, so ΔW(s) = s · ΔW

The largest share s whose loss on general text rises by at most MARGIN of the limit is found by
halving. What is learned falls slower than what is forgotten, so some share is often worth more
than the last state within the limit.

Source: Wortsman et al. 2022, arXiv:2109.01903 (weight-space interpolation).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from domainwright.methods._adapter import Adapter

HALVINGS = 5
"""Shares are found to one part in 32."""
MARGIN = 0.8
"""Of the limit: what is kept is judged on more text than is watched."""
LARGEST = 30_000_000
"""Trainable parameters up to which the start and the trained state are held beside each other."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was found."""

    share: float
    tensors: dict[str, Tensor]


def start_of(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter as it begins, to be drawn back to; empty where it is too large to be held."""
    if adapter.trainable > LARGEST:
        return {}
    return {k: v.detach().clone() for k, v in adapter.state_dict().items()}


def between(
    adapter: Adapter, start: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """The adapter's tensors at a share of the way; see the module's head."""
    whole = adapter.kept_whole
    return {
        name: end
        if not end.is_floating_point() or (whole is not None and name.startswith(whole))
        else torch.lerp(start[name], end.to(start[name].device), share)
        for name, end in trained.items()
    }


def draw_back(
    adapter: Adapter,
    start: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    limit: float,
    general_loss: Callable[[], float],
) -> Drawn | None:
    """The state at the largest share within the limit; None: not even the smallest tried is.

    Args:
        limit: general loss, in nats per token, that a state may have.
        general_loss: of the adapter as it hangs on the base.
    """
    low, high = 0.0, 1.0
    found: Drawn | None = None
    for _ in range(HALVINGS):
        share = (low + high) / 2
        tensors = between(adapter, start, trained, share)
        adapter.load_state_dict(tensors)
        if general_loss() <= limit:
            low, found = share, Drawn(share, tensors)
        else:
            high = share
    return found
