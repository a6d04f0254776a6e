"""The rate where none is asked for: by the size of the base and of the batch."""

import pytest

from domainwright.methods import LARGE, METHODS, SWEPT, usual_rate


@pytest.mark.parametrize("method", ["lora", "full", "prefix"])
def test_the_rate_of_size_and_batch(method):
    own = METHODS.get(method).learning_rate
    assert usual_rate(method, LARGE - 1) == own["small"] == usual_rate(method, SWEPT, 64)
    assert usual_rate(method, LARGE) == own["large"]
    assert usual_rate(method, SWEPT, 2) == pytest.approx(own["small"] / 2)
    assert usual_rate(method, SWEPT, 1) < usual_rate(method, SWEPT, 2) < usual_rate(method, SWEPT)


@pytest.mark.parametrize(("parameters", "times"), [(SWEPT, 1), (28_826_000, 2), (10**5, 9)])
def test_smaller_bases_take_larger_steps(parameters, times):
    small = METHODS.get("lora").learning_rate["small"]
    assert usual_rate("lora", parameters) == pytest.approx(times * small, rel=1e-4)
    assert usual_rate("lora", parameters - 1) >= usual_rate("lora", parameters)
