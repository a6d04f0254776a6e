"""The range test of a method on a study's rows, before any run."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from domainwright.core.errors import ConfigError
from domainwright.core.progress import Listener, quiet
from domainwright.methods import METHODS, usual_rate
from domainwright.studies.api import resolved, wanted_of
from domainwright.studies.study import StudySettings
from domainwright.studies.tune import begin
from domainwright.train import rate_finder
from domainwright.train.rate_finder import FEWEST, RateFound

SPAN = 100.0
"""The method's usual rate, divided and multiplied by it: where the test begins and ends."""


def find_rate(
    study: str | Path | StudySettings,
    method: str,
    *,
    low: float | None = None,
    high: float | None = None,
    steps: int = 60,
    overrides: Sequence[str] = (),
    listen: Listener = quiet,
) -> RateFound:
    """Which learning rate to begin with; nothing is kept. See `train.rate_finder`.

    Args:
        low, high: rates. None: a hundredth and a hundred times the method's usual one.

    Raises:
        ConfigError: too few steps, or rates that do not rise.
        RunFailed: at no rate did the loss fall.
    """
    if steps < FEWEST:
        raise ConfigError(f"steps is {steps}.", f"give a whole number from {FEWEST}.")
    METHODS.get(method)
    settings = resolved(study, overrides)
    # General texts are no part of the question, and writing them takes longer than the test.
    settings = replace(settings, train=replace(settings.train, replay=None))
    with tempfile.TemporaryDirectory() as temporary:
        wanted = wanted_of(settings, method, Path(temporary), listen)
        usual = usual_rate(method, wanted.base.parameters, settings.train.batch)
        low, high = low or usual / SPAN, high or usual * SPAN
        if not 0 < low < high:
            raise ConfigError(
                f"The rates go from {low:g} to {high:g}.", "give --low below --high, both above 0."
            )
        job = begin(wanted, False, listen).job
        return rate_finder.find_rate(job, low, high, steps, listen)
