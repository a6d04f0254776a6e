"""What a run's settings make of an adapter before its first step: penalties, and what they need."""

from collections.abc import Sequence

from domainwright.core.errors import ConfigError
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


def need_noise(adapter: Adapter, settings: TrainSettings) -> None:
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
