"""A linear head for labels, trained jointly with an adapter of any method.

    classification   logits = W h_last            the state of the last token; no bias
    labelling        logits_t = W h_t + b         the state of every token

W starts at zero: before the first step every label is as likely as the next, as for the base,
which has no head. PEFT's layout is kept where PEFT has the method's type: task_type SEQ_CLS or
TOKEN_CLS, and the head in the same file as transformers' `score`; elsewhere it lies beside it.

Source: transformers 5.23, modeling_layers.py, GenericForSequenceClassification (no bias, last
token that is no padding) and GenericForTokenClassification (bias); its dropout of 0.1 before the
labels of tokens is left out.

Dimension key: D hidden size, C labels.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
from transformers.modeling_layers import GenericForTokenClassification

from domainwright.core.artifacts import write_json
from domainwright.core.errors import CapabilityError, DataError
from domainwright.methods import METHODS, _peft_format
from domainwright.methods._adapter import Adapter
from domainwright.methods._folders import method_of
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.models.hooks import Hook, Rows
from domainwright.models.new_words import NewWords
from domainwright.models.token_rows import TokenRows

Kind = Literal["classification", "labelling"]
TASKS: dict[str, Kind] = {"SEQ_CLS": "classification", "TOKEN_CLS": "labelling"}
"""PEFT's names of tasks."""
FILE = "head.safetensors"
"""The head, where the adapter's file is not in PEFT's layout."""
NAMES = ("score", "classifier")
"""What transformers calls it."""
STARTS = (_peft_format.PREFIX, "base_model.")
"""What PEFT puts before that: with adapters on layers, and with learned rows."""


class Head(nn.Module):
    """The head itself, float32."""

    def __init__(self, width: int, kind: Kind, labels: Sequence[str]) -> None:
        super().__init__()
        self.kind, self.labels = kind, tuple(labels)
        self.weight = nn.Parameter(torch.zeros(len(self.labels), width))
        self.bias: nn.Parameter | None = None
        if kind == "labelling":
            self.bias = nn.Parameter(torch.zeros(len(self.labels)))

    def forward(self, states: Tensor) -> Tensor:
        """States (…, D) -> logits (…, C), float32."""
        return functional.linear(states.float(), self.weight, self.bias)


class HeadedAdapter(Adapter):
    """An adapter of any method, and a head that hangs on the base with it."""

    shares_batch = False

    def __init__(self, inner: Adapter, kind: Kind, labels: Sequence[str]) -> None:
        super().__init__(inner.base, inner.settings)
        self.method, self.version = inner.method, inner.version
        self.inner = inner
        self.head = Head(_width(inner.base), kind, labels).to(inner.base.device)

    def places(self) -> Iterator[tuple[str, Hook]]:
        yield from self.inner.places()

    def replacements(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.inner.replacements()

    def learned_rows(self) -> tuple[Rows, TokenRows | None] | None:
        return self.inner.learned_rows()

    @property
    def words(self) -> NewWords | None:
        return self.inner.words

    def attach(self) -> None:
        if not self._attached:
            self.base.hooks.label(self.head, self)
        super().attach()

    def detach(self) -> None:
        super().detach()
        self.base.hooks.label(None, self)

    def prepare(self, rows: Sequence[TrainRow], seed: int) -> None:
        self.inner.prepare(rows, seed)
        self.settings = self.inner.settings

    def rate_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        return [*self.inner.rate_groups(), (list(self.head.parameters()), 1.0)]

    @contextmanager
    def learning(self, step: int, steps: int) -> Iterator[None]:
        with self.inner.learning(step, steps):
            yield

    def merged_parameters(self) -> Iterator[tuple[str, Tensor]]:
        raise CapabilityError(
            "An adapter with a head for labels cannot be merged: the base has no such head.",
            "use it unmerged, or load its folder with PEFT.",
        )

    @property
    def parents(self) -> dict[str, str]:
        return self.inner.parents

    @property
    def peft_type(self) -> str | None:
        return self.inner.peft_type

    def notes(self) -> dict[str, Any]:
        told = {"kind": self.head.kind, "labels": list(self.head.labels)}
        return {**self.inner.notes(), "head": told}

    def save(self, folder: Path) -> None:
        self.inner.save(folder)
        write_json(folder / _peft_format.OWN, self.notes())
        tensors = {k: v.detach().contiguous() for k, v in self.head.state_dict().items()}
        if self.peft_type is None:
            save_file(tensors, folder / FILE, metadata={"format": "pt"})
            return
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        config["task_type"] = next(t for t, kind in TASKS.items() if kind == self.head.kind)
        config["modules_to_save"] = ["classifier", "score"]  # as PEFT writes it
        write_json(folder / "adapter_config.json", config)
        path = folder / "adapter_model.safetensors"
        start = STARTS["num_virtual_tokens" in config] + _name(self.base, self.head.kind)
        own = {f"{start}.{k}": v for k, v in tensors.items()}
        save_file({**load_file(path), **own}, path, metadata={"format": "pt"})


def _name(base: Base, kind: Kind) -> str:
    """What transformers calls the head of this family."""
    if kind == "classification":
        return NAMES[0]
    model: Any = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING.get(type(base.model.config), None)
    return NAMES[model is not None and not issubclass(model, GenericForTokenClassification)]


def _width(base: Base) -> int:
    return int(base.model.config.get_text_config().hidden_size)


def has_head(folder: Path) -> bool:
    """Whether an adapter folder holds a head for labels."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return (folder / FILE).is_file() or config.get("task_type") in TASKS


def load(base: Base, folder: Path) -> HeadedAdapter:
    """An adapter with its head, saved by us or by PEFT.

    Raises:
        DataError: it has no head, the head does not fit, or what the method's own `load` says.
    """
    if not has_head(folder):
        raise DataError(
            f"{folder} holds no head for labels.", "load it with the method it was trained with."
        )
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    own = folder / _peft_format.OWN
    noted = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    with tempfile.TemporaryDirectory() as place:
        tensors = _parted(folder, Path(place), config)
        inner: Adapter = METHODS.get(method_of(Path(place))).load(base, Path(place))
    weight = tensors.get("weight")
    told = noted.get("head") or {
        "kind": TASKS[config["task_type"]],
        # As transformers calls labels without a name.
        "labels": [f"LABEL_{n}" for n in range(0 if weight is None else len(weight))],
    }
    adapter = HeadedAdapter(inner, told["kind"], told["labels"])
    _peft_format.fill(adapter.head.state_dict(), tensors, folder)
    return adapter


def _parted(folder: Path, place: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """The head's tensors; the folder without them is written to `place`."""
    weights = folder / "adapter_model.safetensors"
    for file in folder.iterdir():
        if file.is_file() and file not in (weights, folder / FILE):
            (place / file.name).write_bytes(file.read_bytes())
    if (folder / FILE).is_file():
        if weights.is_file():
            (place / weights.name).write_bytes(weights.read_bytes())
        return load_file(folder / FILE)
    plain = {**config, "task_type": "CAUSAL_LM", "modules_to_save": None}
    write_json(place / "adapter_config.json", plain)
    starts = tuple(f"{start}{name}." for start in STARTS for name in NAMES)
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if not k.startswith(starts)}, place / weights.name)
    return {k.rpartition(".")[2]: v for k, v in tensors.items() if k.startswith(starts)}
