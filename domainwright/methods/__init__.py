"""One file per way to tune. A method attaches parameters to hook points of the base.

A file registers one class that has

    Settings      a frozen dataclass, every field documented
    version       an integer, part of the artifact: "lora@1"
    summary       one line for `dw methods`
    parameter_formula   the closed form, in words of methods.md
    peft_type     PEFT's name of the type, or None: its files are then Domainwright's alone
    identity_start      whether the adapted base is the base before the first step
    random_start        whether the seed decides the start at the default settings
    learning_rate       {"small", "large"}: of bases like SmolLM2-135M, and from one billion
                        parameters on
    merge_rtol    {dtype: largest relative error of merged logits}, empty if it cannot be merged
    build(base, settings, seed) -> Adapter
    load(base, folder) -> Adapter

Every other type of PEFT is a method under its own name: `peft:vera`.
"""

import math

from domainwright.core.registry import Folder

METHODS: Folder = Folder("domainwright.methods", "method", {"peft": "_peft_types"})

LARGE = 1_000_000_000
"""Parameters from which a method's learning rate for large bases applies."""
SWEPT, MOST, EXPONENT = 134_515_008, 9.0, 0.45
"""Parameters of the base that the rates for small bases are meant for, and how those of smaller
ones grow: 9 is what a base of a million takes, and so is (SWEPT / 10⁶)^0.45."""
USUAL_BATCH = 8
"""Documents a step for which the methods' rates are meant."""


def usual_rate(method: str, parameters: int, batch: int = USUAL_BATCH) -> float:
    """The method's learning rate where no other is asked for.

        rate(N, batch) = rate · min(9, max(1, (N₀ / N)^0.45)) · √(min(batch, 8) / 8)

    Smaller bases take larger steps: on the small world of the science bench (N = 10⁶) every method
    learned most at nine times its rate for SmolLM2-135M (N₀) or beyond (docs/defaults.md); between
    the two sizes the rate is a line in the logarithms.

    The gradient of fewer documents is noisier. On the small world of the science bench the best
    rate of LoRA was 4.5e-3 for 2 documents a step, 8.0e-3 for 8 and 8.7e-3 for 32, so it does not
    rise with larger batches (LOG.md, 2026-11-22).

    Args:
        parameters: N, of the base.
        batch: documents a step.
    """
    size = "large" if parameters >= LARGE else "small"
    rate = float(METHODS.get(method).learning_rate[size])
    rate *= min(MOST, max(1.0, (SWEPT / parameters) ** EXPONENT))
    return rate * math.sqrt(min(batch, USUAL_BATCH) / USUAL_BATCH)
