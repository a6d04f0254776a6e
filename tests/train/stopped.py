"""That a run which is stopped and gone on with is the run which was not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from domainwright.train.job import Job, Trained
from domainwright.train.loop import Interrupted, train
from tests.train.candidates import without


def stop_at(*steps: int) -> dict[str, Any]:
    """A listener and a stop flag that fires after these steps."""
    seen: list[int] = []
    return {"listen": lambda s: seen.append(s.done), "stop": lambda: seen[-1] in steps}


def same_after_a_stop(
    job_in: Callable[[Path], Job], folder: Path, step: int = 7
) -> tuple[Job, Trained]:
    """Train a job straight, and again stopped after `step`: history and tensors must be equal.

    Returns:
        The straight job and what became of it.
    """
    straight = job_in(folder / "straight")
    want = train(straight)
    with pytest.raises(Interrupted):
        train(job_in(folder / "stopped"), **stop_at(step))
    again = job_in(folder / "stopped")
    got = train(again, resume=True)
    assert without(got.history) == without(want.history)
    tensors = again.adapter.state_dict()
    for name, value in straight.adapter.state_dict().items():
        assert torch.equal(value, tensors[name]), name
    return straight, want
