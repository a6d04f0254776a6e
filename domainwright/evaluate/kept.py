"""What a tuned model keeps of a task that is no part of its study."""

from dataclasses import dataclass

from domainwright.maths.bootstrap import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskKept:
    """A task of lm-eval before and after tuning."""

    name: str
    metric: str
    """lm-eval's: "acc_norm", "bits_per_byte", "exact_match,strict-match"."""
    higher_is_better: bool
    items: int
    mean: float
    """Of the metric over single items."""
    change: Interval
    """Against the base, paired over items."""
    max_drop: float | None = None
    """Most that a recommended strategy may lose, in the metric's points. None: no limit."""

    @property
    def lost(self) -> float:
        """Points by which the metric became worse; below 0: better."""
        return -self.change.mean if self.higher_is_better else self.change.mean
