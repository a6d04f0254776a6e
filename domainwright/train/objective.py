"""What a run's settings make of an adapter before its first step, and what they need of it."""

from collections.abc import Sequence

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.methods._adapter import Adapter
from domainwright.train.penalties import PENALTIES
from domainwright.train.penalties._penalty import Given, Penalty
from domainwright.train.regimes import penalty_settings
from domainwright.train.settings import TrainSettings

NOTHING = Given()


def penalties_of(
    adapter: Adapter, settings: TrainSettings, given: Given = NOTHING
) -> Sequence[Penalty]:
    """The run's penalties. The adapter is at its start, from which they measure.

    Raises:
        CapabilityError: one of them does not fit the method.
    """
    return tuple(
        PENALTIES.get(name).build(adapter, penalty_settings(name, values), given)
        for name, values in settings.penalties.items()
    )


def check_fit(adapter: Adapter, settings: TrainSettings) -> None:
    """Refuse settings that would do nothing, or less than they say, with this adapter.

    Raises:
        ConfigError, CapabilityError: with what to change.
    """
    _need_noise(adapter, settings)
    _need_weights(adapter, settings)


def _need_weights(adapter: Adapter, settings: TrainSettings) -> None:
    """Refuse `mixout` where what is trained is not, or not all, weights of the base.

    Raises:
        CapabilityError: a method that adds something.
    """
    if not settings.mixout:
        return
    replaces, adds = (any(True for _ in x) for x in (adapter.replacements(), adapter.places()))
    if adds or not replaces:
        raise CapabilityError(
            f"train.mixout is {settings.mixout}, and {adapter.method} adds to the base: it holds "
            "no new values of weights that could be the base's own again.",
            "leave train.mixout out, or use full, top_layers or layernorm.",
        )


def _need_noise(adapter: Adapter, settings: TrainSettings) -> None:
    """Refuse two readings of every row where both would be the same.

    Raises:
        ConfigError: `r_drop` without dropout and without noise on the embeddings.
    """
    if not settings.r_drop or settings.neftune:
        return
    if not any(getattr(hook, "dropping", False) for _, hook in adapter.places()):
        raise ConfigError(
            f"train.r_drop is {settings.r_drop}, and nothing in a {adapter.method} run is random: "
            "both readings of a row would be the same.",
            f"set `methods: {{{adapter.method}: {{dropout: 0.1}}}}` or `train: {{neftune: 5}}`.",
        )
