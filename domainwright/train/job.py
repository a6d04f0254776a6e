"""What a run is made of, and what it measured about itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow
from domainwright.train.order import Order
from domainwright.train.penalties._penalty import Penalty
from domainwright.train.settings import TrainSettings
from domainwright.train.shelf import Shelf
from domainwright.train.tasks import Balance


class Interrupted(KeyboardInterrupt):
    """The run stopped on request after writing a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything a run is made of."""

    base: Base
    adapter: Adapter
    rows: Sequence[TrainRow] = ()
    """Empty: the job is for steps whose rows are handed over, and for no run."""
    development: Sequence[TrainRow] = ()
    general: Sequence[TrainRow] = ()
    """General text on which forgetting is watched."""
    settings: TrainSettings
    steps: int
    learning_rate: float
    micro_tokens: int
    seed: int
    folder: Path
    """Checkpoints and metrics.jsonl go here."""
    run_hash: str
    """Of data, settings and base: a checkpoint of another run is refused."""
    start: Mapping[str, float] | None = None
    """Watched losses of the untouched base, where another run on the same rows has read them."""
    recompute: bool = False
    """Gradient checkpointing: less memory, more time, the same gradients."""
    offload: bool = False
    """The optimiser's state and the best states off the device (`train.shelf`)."""
    replay: Sequence[TrainRow] = ()
    """General rows to be read too, as `settings.replay` says."""
    penalties: Sequence[Penalty] = ()
    """What leaving the base costs; made while the adapter was at its start."""
    balance: Balance | None = None
    """How its tasks share a step; None: all tokens count alike."""
    shares: Mapping[str, float] | None = None
    """Task -> share of the rows that are read; None: every row once an epoch."""

    @property
    def order(self) -> Order:
        return Order(self.rows, self.settings.batch, self.seed, self.shares)

    @property
    def shelf(self) -> Path | None:
        """Where a file lies that holds what is off the device; None: in host memory."""
        return self.folder if self.base.device.type == "cpu" else None

    def kept(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A copy of a state of the adapter, off the device where the run says so.

        Raises:
            OSError: the disk has no room for it.
        """
        if self.offload:
            return Shelf.of(state, self.shelf)
        return {k: v.detach().clone() for k, v in state.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a run measured about itself."""

    steps: int
    best_step: int
    seconds: float
    tokens: int
    tokens_per_s: float
    peak_rss_mib: int
    base_loss: float
    """Development loss of the untouched base, nats per token."""
    best_loss: float
    history: tuple[dict[str, Any], ...]
