"""4-bit codes in the place of a base's weights: for good, or while an adapter hangs on it.

Dimension key: O outputs, I inputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from torch import Tensor, nn

from domainwright.core.errors import CapabilityError
from domainwright.models.four_bit import Codes, quantise
from domainwright.models.points import Linear, find_linears
from domainwright.models.quantised import Quantised, product


def quantise_linears(model: nn.Module, kind: str, *, double: bool) -> None:
    """Let every linear layer of the blocks hold codes; each weight is freed before the next."""
    for path in [x.path for x in find_linears(model)]:
        parent, _, name = path.rpartition(".")
        linear: Any = model.get_submodule(path)
        transposed = not isinstance(linear, nn.Linear)
        weight_OI = linear.weight.detach().T if transposed else linear.weight.detach()
        made = Quantised(quantise(weight_OI, kind, double=double), linear.bias, weight_OI.dtype)
        made.transposed = transposed
        setattr(model.get_submodule(parent), name, made)
    for parameter in model.parameters():
        # The weights' file is mapped into memory: one view of it would keep all its pages.
        parameter.data = parameter.data.clone()


def dequantised_parameters(linears: Sequence[Linear]) -> Iterator[tuple[str, Tensor]]:
    """(full name, weight as the source of the base stores it) of every quantised layer."""
    for linear in linears:
        if isinstance(linear.module, Quantised):
            yield f"{linear.path}.weight", linear.module.weight.contiguous()


@dataclass(frozen=True, slots=True, eq=False)
class StandIn:
    """Codes that a frozen layer computes with instead of its own weight: a hook."""

    codes: Codes
    linear: Linear

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        return product(x, self.codes, self.linear.module.bias)  # type: ignore[arg-type]


def agreed(stand_ins: Sequence[StandIn]) -> Codes:
    """The codes that all of them hold.

    Raises:
        CapabilityError: they differ.
    """
    first = stand_ins[0].codes
    if any(x.codes is not first for x in stand_ins):
        raise CapabilityError(
            "Two adapters want one layer to compute with different 4-bit weights.",
            "detach the first one before the second is attached.",
        )
    return first


class CodesOf(dict[str, Codes]):
    """Path of a linear layer -> its codes. A class, because a plain dict cannot be found again."""


_MADE: WeakKeyDictionary[nn.Module, WeakValueDictionary[tuple[str, bool], CodesOf]]
_MADE = WeakKeyDictionary()


def codes_of(model: nn.Module, linears: Sequence[Linear], kind: str, *, double: bool) -> CodesOf:
    """Codes of a full-precision model's layers; shared by all who hold them at the same time."""
    made = _MADE.setdefault(model, WeakValueDictionary())
    found = made.get((kind, double))
    if found is None:
        found = CodesOf({x.path: quantise(x.weight_OI, kind, double=double) for x in linears})
        made[kind, double] = found
    return found
