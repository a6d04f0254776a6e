"""The rate where none is asked for: by the size of the base and of the batch."""

import pytest

from domainwright.methods import LARGE, METHODS, usual_rate


@pytest.mark.parametrize("method", ["lora", "full", "prefix"])
def test_the_rate_of_size_and_batch(method):
    own = METHODS.get(method).learning_rate
    assert usual_rate(method, LARGE - 1) == own["small"] == usual_rate(method, 1, 64)
    assert usual_rate(method, LARGE) == own["large"]
    assert usual_rate(method, 1, 2) == pytest.approx(own["small"] / 2)
    assert usual_rate(method, 1, 1) < usual_rate(method, 1, 2) < usual_rate(method, 1, 8)
