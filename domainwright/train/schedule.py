"""Learning rate over a run, as a factor of the highest rate.

    warm-up   (t + 1) / (w + 1)                   t < w
    constant  1
    linear    1 - p                               p = (t - w) / (T - w)
    cosine    ½ (1 + cos π p)
    wsd       1, then 1 - √q over the last steps  q = share of the decay gone
    stlr      (1 + 31 s) / 32, no warm-up         s = t / c up to c, then 1 - (t - c) / 9c

with c = ⌊T / 10⌋ in stlr, the slanted triangle. Where T is no multiple of ten s would fall below 0
and the rate with it (T = 19: -0.83); it stays at 0.

Source: the usual forms; "wsd" after Hägele et al. 2024 (arXiv:2405.18392), 1-sqrt decay; "stlr"
after Howard and Ruder 2018 (arXiv:1801.06146), section 3.2, cut_frac 0.1 and ratio 32.
"""

import math

CUT, RATIO = 10, 32
"""The slanted triangle rises over a tenth of the run, to this many times its lowest rate."""


def factor(kind: str, step: int, steps: int, warmup_share: float, decay_share: float) -> float:
    """The factor for step `step` (from 0) of `steps`. In (0, 1] but for the end of a decay.

    >>> [round(factor("linear", t, 4, 0.0, 0.2), 2) for t in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if kind == "stlr":
        cut = max(1, steps // CUT)
        share = step / cut if step < cut else 1 - (step - cut) / (cut * (CUT - 1))
        return (1 + max(0.0, share) * (RATIO - 1)) / RATIO
    warmup = round(warmup_share * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if kind == "linear":
        return 1 - done
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if kind == "wsd":
        decay = max(1, round(decay_share * steps))
        gone = (step - (steps - decay)) / decay
        return 1.0 if gone <= 0 else 1 - math.sqrt(gone)
    return 1.0
