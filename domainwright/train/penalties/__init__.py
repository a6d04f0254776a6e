"""One file per way to make leaving the base cost something.

A file registers one class that has

    Settings      a frozen dataclass, `weight` among its fields
    summary       one line
    build(adapter, settings, given) -> Penalty     the adapter is at its start and off

A penalty is added to the loss of every step: one on the predictions by the loss head
(`train.shaped`), one on the parameters once a step. All are zero where a method begins as the base,
but for `o_lora`, which keeps a new change apart from earlier ones.
"""

from typing import Any

from domainwright.core.registry import Folder

PENALTIES: Folder[Any] = Folder("domainwright.train.penalties", "penalty")
