"""Adapters that hold new values of some of the base's own parameters.

    W  ->  W'        W' float32, starts as W

The base keeps its own weights; W' is read in their place while the adapter is attached. A
step below 1/512 of a bfloat16 weight would be no step at all, hence the float32 masters: four
bytes for each changed parameter beside the base.

Saved is what changed, by the parameters' own names, with the hash of the base.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from domainwright.core.errors import CapabilityError, DataError
from domainwright.methods import _peft_format
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base

MERGE_RTOL = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""The merged values are those read while attached; the fused trunk sums them in another order."""


class WeightsAdapter(Adapter):
    """New values of the parameters called `names`."""

    # A layer has one weight for all rows.
    shares_batch: ClassVar[bool] = False

    def __init__(self, base: Base, settings: Any, names: Sequence[str]) -> None:
        super().__init__(base, settings)
        self.names = list(names)
        with base.hooks.disabled():
            own = [base.model.get_parameter(n).detach() for n in self.names]
        self.values = nn.ParameterList(nn.Parameter(p.float().clone()) for p in own)

    def replacements(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from zip(self.names, self.values, strict=True)

    def merged_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in zip(self.names, self.values, strict=True):
            yield name, value.detach().to(self.base.dtype)

    def stored(self) -> dict[str, Tensor]:
        """The tensors by the names they have in the file."""
        return {n: v.data for n, v in zip(self.names, self.values, strict=True)}

    def save(self, folder: Path) -> None:
        notes = self.notes()
        _peft_format.write(folder, notes, self.stored(), notes)


def need_full_weights(base: Base, method: str) -> None:
    """Refuse a base whose linear layers hold codes: there is no weight to change.

    Raises:
        CapabilityError: it was loaded quantised.
    """
    if base.quantised is not None:
        raise CapabilityError(
            f"{base.source.name} was loaded in 4 bits ({base.quantised[0]}), and {method} trains "
            "the weights themselves.",
            "choose qlora or lora, or load the base without `quantise`.",
        )


def load(kind: Any, adapter_of: Any, base: Base, folder: Path) -> Any:
    """An adapter of changed parameters, checked key by key.

    Args:
        kind: the registered class of the method.
        adapter_of: (base, settings) -> the adapter as it begins.

    Raises:
        DataError: another base or method, a missing or surplus tensor.
    """
    _, tensors, noted = _peft_format.read(folder)
    name = kind.__module__.rpartition(".")[2]
    _peft_format.check_method(noted, name, folder)
    _peft_format.check_base(noted, base.sha256, base.source.name, folder)
    try:
        settings = kind.Settings(**_tuples(noted["settings"]))
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{folder} has settings that {name}@{kind.version} does not know ({error}).",
            "train it again with this version.",
        ) from error
    adapter = adapter_of(base, settings)
    _peft_format.fill(adapter.stored(), tensors, folder)
    return adapter


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they were: JSON knows no tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
