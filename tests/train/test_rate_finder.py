"""The range test: what it suggests, and that it leaves nothing behind."""

import numpy as np
import pytest
import torch

from domainwright.core.errors import ConfigError, RunFailed
from domainwright.studies import rates
from domainwright.train.rate_finder import diverged, find_rate, judged, smoothed
from tests.tiny import tiny_base
from tests.train.runs import make_job


def test_the_mean_is_that_of_the_formula():
    values = [1.0, 0.5, -2.0, 4.0]
    for t, value in enumerate(smoothed(values)):
        weights = [0.8 ** (t - k) for k in range(t + 1)]
        assert value == pytest.approx(np.average(values[: t + 1], weights=weights))


def test_the_suggestion_is_where_the_loss_falls_fastest_before_its_lowest_point():
    """A loss that is known: flat, falling fastest at 1e-2, lowest at 1e-1, then rising."""
    decades = np.linspace(-4, 0, 41)
    loss = np.where(decades < -1, -1 / (1 + np.exp(-8 * (decades + 2))), -1 + 3 * (decades + 1))
    found = judged((10**decades).tolist(), loss.tolist())
    # The smoothed loss lags behind by some steps of a tenth of a decade.
    assert 10**-2.0 <= found.suggested <= 10**-1.5
    assert found.suggested < found.lowest <= 10**-0.7
    assert len(found.rates) == len(found.losses) == 41
    with pytest.raises(RunFailed, match="did the loss fall"):
        judged([1e-3, 1e-2, 1e-1], [0.0, 0.1, 0.2])


def test_it_ends_when_the_loss_has_risen_as_far_as_it_had_fallen():
    assert not diverged(np.array([0.0, -0.5, 0.4]))
    assert diverged(np.array([0.0, -0.5, 0.6]))
    assert not diverged(np.array([0.0, 0.01, 0.04]))


def test_a_run_that_is_tested_is_as_it_was(tmp_path):
    base = tiny_base()
    job = make_job(tmp_path / "run", base=base)
    before = {k: v.clone() for k, v in job.adapter.state_dict().items()}
    plain = base.model(torch.tensor([[5, 6, 7]])).logits
    told = []
    found = find_rate(job, 1e-4, 30.0, 40, told.append)
    for name, value in job.adapter.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(base.model(torch.tensor([[5, 6, 7]])).logits, plain)
    # A rate of 30 throws the tiny adapter far off, and one of 1e-4 hardly moves it.
    assert 1e-3 < found.suggested <= found.lowest < 10 and found.losses[0] == 0
    assert len(found.losses) < 40 and len(told) >= len(found.losses)
    assert not (tmp_path / "run").exists()
    again = find_rate(job, 1e-4, 30.0, 40)
    assert again == found


def test_what_cannot_be_tested(tmp_path):
    with pytest.raises(ConfigError, match="steps is 3"):
        rates.find_rate("study.yaml", "lora", steps=3)
