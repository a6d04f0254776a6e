"""The trained artifact of any method, and its life on a base."""

import abc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from domainwright.models.base import Base


class Adapter(nn.Module, abc.ABC):
    """Parameters that hang on a base's hook points.

    Attached, the base answers as adapted; detached or inside `disabled()`, it is bit for bit
    the base.
    """

    method: str
    version: int

    def __init__(self, base: Base, settings: Any) -> None:
        super().__init__()
        # Not a submodule: the base's weights are never the adapter's.
        object.__setattr__(self, "base", base)
        self.settings = settings

    base: Base

    @abc.abstractmethod
    def attach(self) -> None:
        """Hang on the base. Attaching twice is a no-op."""

    @abc.abstractmethod
    def detach(self) -> None:
        """Leave the base as it was."""

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write the adapter's files, in PEFT's layout where PEFT has the type."""

    @abc.abstractmethod
    def merged_weights(self) -> Iterator[tuple[str, Tensor]]:
        """(path of a layer, its new weight as the base stores it), layer by layer."""

    @property
    def trainable(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Adapted inside this block, bare after it."""
        self.attach()
        try:
            yield
        finally:
            self.detach()
