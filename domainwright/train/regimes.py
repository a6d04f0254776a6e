"""Settings of the ways to forget less and to overfit less, and which of them exclude each other."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from domainwright.core.config import as_mapping, from_mapping
from domainwright.core.errors import ConfigError
from domainwright.train.penalties import PENALTIES

if TYPE_CHECKING:
    from domainwright.train.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings:
    """General texts among the rows. See `train.replay` for those that the base writes itself."""

    share: float = 0.2
    """Share of general documents among all that are read, and of their loss. In [0, 1)."""
    source: str | None = None
    """A file of texts or conversations. None: the untouched base writes them itself."""
    learn: Literal["tokens", "base"] = "base"
    """Their own tokens, or the base's whole distribution at each of them."""
    texts: int = 64
    """How many the base writes where there is no file."""
    new_tokens: int = 64
    """Longest text that the base writes, in tokens."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(
                f"train.replay.share is {self.share}, outside [0, 1).",
                "give a share of the documents such as 0.2.",
            )
        for name in ("texts", "new_tokens"):
            if getattr(self, name) < 2:
                raise ConfigError(
                    f"train.replay.{name} is {getattr(self, name)}.", "give a whole number from 2."
                )


LIMITS = {
    "label_smoothing": (0.0, 1.0, "a share of the target such as 0.1"),
    "prompt_weight": (0.0, 1.0, "a weight in [0, 1] such as 0.1"),
    "neftune": (0.0, 1000.0, "a strength such as 5"),
    "r_drop": (0.0, 1000.0, "a strength such as 1"),
    "mixout": (0.0, 1.0, "a share of the weights such as 0.7"),
    "average": (0.0, 1.0, "the share of the run after which states are averaged, such as 0.5"),
}
"""Setting -> (least, most, what to give). The most is out of range, but for a weight."""


def check(settings: "TrainSettings") -> None:
    """Refuse what is out of range or cannot be combined.

    Raises:
        ConfigError: with what was found and what to type.
        UnknownName: a penalty that does not exist.
    """
    for name, (least, most, wanted) in LIMITS.items():
        value = getattr(settings, name)
        above = value is not None and (value >= most if name != "prompt_weight" else value > most)
        if value is not None and (not value >= least or above):
            raise ConfigError(f"train.{name} is {value}.", f"give {wanted}.")
    found = {n: as_mapping(penalty_settings(n, v)) for n, v in settings.penalties.items()}
    # Every default written out, as everywhere in a resolved study.
    object.__setattr__(settings, "penalties", found)
    if "ewc" in settings.penalties and settings.replay is None:
        raise ConfigError(
            "train.penalties.ewc asks which weights general text hangs on, and there is none.",
            "set `train: {replay: {share: 0.2}}`; a share of 0 uses its texts for that alone.",
        )
    shaped = [n for n in ("label_smoothing", "prompt_weight", "r_drop") if getattr(settings, n)]
    if "kl" in settings.penalties:
        shaped.append("penalties.kl")
    taught = settings.distil is not None and settings.distil.learn == "logits"
    other = "head" if settings.head else "distil" if taught else None
    if shaped and other:
        why = {
            "head": "the head's labels have a loss of their own",
            "distil": "a teacher's probabilities already say what each token's loss is",
        }
        raise ConfigError(
            f"train.{other} and train.{shaped[0]} are both set, and {why[other]}.",
            "leave one of the two out.",
        )


def penalty_settings(name: str, values: Any) -> Any:
    """The settings of the penalty called `name`.

    Raises:
        UnknownName, ConfigError: no such penalty, or no such setting of it.
    """
    kind = PENALTIES.get(name)
    return from_mapping(kind.Settings, values or {}, f"train.penalties {name}")
