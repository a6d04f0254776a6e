"""Many adapters of one base into one. One file per way.

A file registers one class that has

    summary       one line
    weighted      whether the user may weigh the adapters
    join(members, weights, loss_of) -> Joined

`members` are what the adapters change (`_changes.Changes`), `weights` add up to 1, and `loss_of`
measures a combination, for ways that choose by it.
"""

from typing import Any

from domainwright.core.registry import Folder

COMBINERS: Folder[Any] = Folder("domainwright.combine", "way to combine")
