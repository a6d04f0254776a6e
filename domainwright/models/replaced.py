"""Weights of a base that an adapter stands in for, while the base keeps its own.

    module.weight  ->  the adapter's tensor in the base's dtype, while it is attached

The module's class is exchanged for a subclass whose attribute is a property: every reader sees
the adapter's tensor (the layer itself, the loss head, a scan that never calls the layer), and
gradients reach it; parameters and state dict of the base stay its own, bit for bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from domainwright.core.errors import CapabilityError

Current = Callable[[Any], bool]
"""Whether an owner's weights are to be read now."""
AsRead = Callable[[str, Tensor, Tensor], Tensor]
"""(name of a parameter, what stands in for it, the base's own) -> what is read."""


class Replaced:
    """Replacements on one model, found by the full names of its parameters."""

    def __init__(self, model: nn.Module, current: Current) -> None:
        self.model, self.current = model, current
        self._plain: dict[nn.Module, type] = {}
        """Class of every module that is covered."""
        self.owners: dict[tuple[nn.Module, str], Any] = {}
        self._whole: set[tuple[nn.Module, str]] = set()
        self._as_read: AsRead | None = None

    @contextmanager
    def reading(self, as_read: AsRead) -> Iterator[None]:
        """Inside this block every replacement is read as that says."""
        before, self._as_read = self._as_read, as_read
        try:
            yield
        finally:
            self._as_read = before

    def add(self, name: str, value: nn.Parameter, owner: Any) -> None:
        """Read `value` where the model reads its parameter `name`, tied copies included.

        Raises:
            CapabilityError: another adapter stands there already.
        """
        path, _, own_key = name.rpartition(".")
        # Not get_parameter: where another adapter stands, that gives the adapter's.
        own = self.model.get_submodule(path)._parameters[own_key]

        def read(own: Tensor) -> Tensor:
            mine = value if self._as_read is None else self._as_read(name, value, own)
            return mine.to(own.dtype)

        for module in self.model.modules():
            for key, parameter in module._parameters.items():
                if parameter is own:
                    self.cover(module, key, owner, read)
                    self._whole.add((module, key))

    def cover(
        self, module: nn.Module, key: str, owner: Any, read: Callable[[Tensor], Tensor]
    ) -> None:
        """Let one module read `read(its own)` for its parameter `key`, until `remove(owner)`.

        Raises:
            CapabilityError: another adapter stands there already.
        """
        if (module, key) in self.owners:
            raise CapabilityError(
                "Two adapters replace the same weights of one base.",
                "detach the first one before the second is attached.",
            )

        def now(self_: nn.Module) -> Tensor:
            own = self_._parameters[key]
            assert own is not None  # only parameters are covered
            return read(own) if self.current(owner) else own

        kind = type(module)
        self._plain.setdefault(module, kind)
        # Its name stays: transformers looks some classes up by name.
        covered = type(kind.__name__, (kind,), {key: property(now), "__module__": kind.__module__})
        module.__class__ = covered
        self.owners[module, key] = owner

    def remove(self, owner: Any) -> None:
        for module, key in [k for k, who in self.owners.items() if who is owner]:
            del self.owners[module, key]
            self._whole.discard((module, key))
            # A class is part of a circle: through it the owner would live until one is looked for.
            delattr(next(kind for kind in type(module).__mro__ if key in vars(kind)), key)
            if not any(m is module for m, _ in self.owners):
                module.__class__ = self._plain.pop(module)

    def acts_on(self) -> bool:
        """Whether any whole parameter is replaced now."""
        return any(self.current(self.owners[place]) for place in self._whole)
