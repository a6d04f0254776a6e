"""The trained artifact of any method, and its life on a base."""

import abc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from domainwright.core.config import as_mapping
from domainwright.core.errors import CapabilityError
from domainwright.methods import METHODS
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.models.hooks import Hook, Rows
from domainwright.models.new_words import NewWords, reading
from domainwright.models.token_rows import TokenRows


class Adapter(nn.Module, abc.ABC):
    """Parameters that hang on a base's hook points.

    Attached, the base answers as adapted; detached or inside `disabled()`, it is bit for bit
    the base. One that brings new words leaves them there inside `disabled()`, as they began.
    """

    method: str
    version: int
    shares_batch: ClassVar[bool] = True
    """Whether it can act on some rows of a flat batch while other adapters own the rest."""
    tasks: tuple[str, ...] = ()
    """Tasks whose rows it reads each in a way of its own, so that no pass may hold rows of two."""

    def __init__(self, base: Base, settings: Any) -> None:
        super().__init__()
        # Not a submodule: the base's weights are never the adapter's.
        object.__setattr__(self, "base", base)
        self.settings = settings
        self._hung: list[Hook] = []
        self._attached = False
        self._words_on = ExitStack()

    base: Base

    @property
    def words(self) -> NewWords | None:
        """Words that the base reads and writes as tokens of their own while this hangs on it."""
        return None

    @property
    def tokenizer(self) -> Any:
        """What turns text into the tokens that the adapted base reads."""
        return self.base.tokenizer if self.words is None else self.words.tokenizer

    def speaking(self) -> AbstractContextManager[None]:
        """Inside this block the bare base knows the adapter's words as well, as they begin.

        What it is trained on is tokenised here. Nothing changes where it brings none.
        """
        return reading(self.base, self.words)

    def places(self) -> Iterator[tuple[str, Hook]]:
        """(path of a hook point, what hangs there)."""
        yield from ()

    def replacements(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(full name of a parameter of the base, what stands in for it)."""
        yield from ()

    def learned_rows(self) -> tuple[Rows, TokenRows | None] | None:
        """Rows that stand in for the base's, of the embedding and of a head that is not tied."""
        return None

    def attach(self) -> None:
        """Hang on the base. Attaching twice is a no-op."""
        if self._attached:
            return
        self._attached = True
        try:
            self._words_on.enter_context(self.speaking())
            for path, hook in self.places():
                self.base.hooks.add(path, hook, self)
                self._hung.append(hook)
            for name, value in self.replacements():
                self.base.hooks.replace(name, value, self)
            if (rows := self.learned_rows()) is not None:
                self.base.hooks.learn(*rows, self)
        except BaseException:
            # A part of an adapter must not stay behind on the base.
            self.detach()
            raise

    def detach(self) -> None:
        """Leave the base as it was."""
        for hook in self._hung:
            self.base.hooks.remove(hook)
        self.base.hooks.restore(self)
        self._words_on.close()
        self._hung.clear()
        self._attached = False

    def prepare(self, rows: Sequence[TrainRow], seed: int) -> None:
        """Take what the start needs from the training rows, once, before the first step.

        Nothing, for most methods. Not attached; the number of trainable values may change
        between layers.
        """

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write the adapter's files, in PEFT's layout where PEFT has the type."""

    def merged_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(full name of a parameter, its new value as the base stores it), one by one.

        Raises:
            CapabilityError: what the method adds is no part of the base's weights.
        """
        raise CapabilityError(
            f"A {self.method} adapter cannot be merged: what it adds is no weight of the base.",
            "export it unmerged, or train a method that merges, such as lora.",
        )

    def rate_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """(parameters, factor on the learning rate) that cover every trainable tensor once."""
        return [([p for p in self.parameters() if p.requires_grad], 1.0)]

    @contextmanager
    def reading(self, task: str) -> Iterator[None]:
        """Inside this block rows of that task are read. No difference, for most methods."""
        yield

    @contextmanager
    def learning(self, step: int, steps: int) -> Iterator[None]:
        """Inside this block only what learns in `step` (from 0) of `steps` asks for a gradient.

        All of it, for most methods. It follows from the two numbers alone, so a run that was
        resumed goes on as it would have.
        """
        yield

    def notes(self) -> dict[str, Any]:
        """What Domainwright must know to load the adapter again."""
        return {
            "method": f"{self.method}@{self.version}",
            "base": self.base.source.name,
            "base_sha256": self.base.sha256,
            "settings": as_mapping(self.settings),
            # What the base's linear layers held while it was trained.
            **({"quantised": list(held)} if (held := self.base.quantised) else {}),
        }

    @property
    def parents(self) -> dict[str, str]:
        """Content hashes of what the adapter's start was made from, beside the base."""
        return {}

    @property
    def peft_type(self) -> str | None:
        """PEFT's name of what `save` writes; None: PEFT cannot read it."""
        found: str | None = METHODS.get(self.method).peft_type
        return found

    @property
    def unties(self) -> bool:
        """Whether a merge changes the embedding and not the head that is tied to it."""
        return False

    @property
    def trainable(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def kept_whole(self) -> str | None:
        """How the names of tensors begin that stay as trained when a state is drawn back towards
        the start: LoRA's A, where B began at zero, so that the change itself is scaled."""
        return None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Adapted inside this block, bare after it."""
        self.attach()
        try:
            yield
        finally:
            self.detach()
