"""A state that forgets too much, drawn back towards the start until it is within the limit.

    θ(s) = θ_start + s · (θ_trained - θ_start)         s in (0, 1]
    LoRA's kin begin at B = 0: B(s) = s · B_trained, A as trained, so ΔW(s) = s · ΔW

Sought is the largest share s whose loss on general text rises by at most MARGIN of the limit. The
rise is taken for a power of the share, at first its square, as the loss is flat at the base:

    s = s_over · (aim / rise(s_over))^(1/p)      p = Δ log rise / Δ log s of the nearest two seen

What is learned falls slower than what is forgotten, so some share is often worth more
than the last state within the limit.

Source: Wortsman et al. 2022, arXiv:2109.01903 (weight-space interpolation).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from domainwright.methods._adapter import Adapter

LOOKS, USUAL_LOOKS = 5, 2
"""At general text: at most, and where the rise is nearly a power of the share."""
NEAR = 0.9
"""Of what the loss may rise by: a share that uses as much is not looked beyond."""
CLOSE = 1 / 32
"""A share within and one beyond the limit that are no further apart are not looked between."""
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
    room: float,
    rise: float,
    general_rise: Callable[[], float],
) -> Drawn | None:
    """The state at the largest share seen within the limit; None: not even the smallest was.

    Args:
        room: nats per token by which a state may raise the loss on general text.
        rise: by how many the trained state does.
        general_rise: by how many the adapter does as it hangs on the base.
    """
    within, over = (0.0, 0.0), [(1.0, rise)]
    found: Drawn | None = None
    for _ in range(LOOKS):
        share = _guess(within, over, room)
        tensors = between(adapter, start, trained, share)
        adapter.load_state_dict(tensors)
        risen = general_rise()
        if risen <= room:
            within, found = (share, risen), Drawn(share, tensors)
        else:
            over.append((share, risen))
        if NEAR * room <= risen <= room or over[-1][0] - within[0] <= CLOSE:
            break
    return found


def _guess(within: tuple[float, float], over: Sequence[tuple[float, float]], room: float) -> float:
    """A share between the largest within the limit and the smallest beyond it."""
    low, (high, rise) = within[0], over[-1]
    if room <= 0 or not math.isfinite(rise):
        return (low + high) / 2
    power = 2.0
    for share, risen in (within, *over[-2:-1]):
        if share > 0 and 0 < risen < math.inf:
            power = math.log(rise / risen) / math.log(high / share)
            break
    if power <= 0:
        return (low + high) / 2
    aim = (1 + NEAR) / 2 * room
    edge = (high - low) / 8
    return min(max(high * (aim / rise) ** (1 / power), low + edge), high - edge)
