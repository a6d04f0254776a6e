"""Pieces judged by Ray's workers, on this machine or on a cluster's.

Every machine needs this package, and sees the dataset's folder under the same path. A piece whose
worker or machine is lost is judged again elsewhere; the dataset is the same.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from domainwright.curate._judging import Items, Judging, PieceMaker, Task, shared_out
from domainwright.curate._ray import ray_of


@contextlib.contextmanager
def ray_judging(task: Task, workers: int | None) -> Iterator[Judging]:
    """As `_judging.judging`.

    Args:
        workers: None: one for each of Ray's processors.

    Raises:
        CapabilityError: Ray is not installed, or cannot be reached.
    """
    with ray_of(workers) as ray:
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        # Without limit: a machine of a cluster may come and go.
        kind = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(PieceMaker)
        shared = ray.put(task)
        actors = [kind.remote(shared) for _ in range(count)]
        with shared_out([partial(_make, ray, actor) for actor in actors]) as judge:
            yield judge


def _make(ray: Any, actor: Any, number: int, items: Items) -> None:
    try:
        ray.get(actor.make.remote(number, items))
    except ray.exceptions.RayTaskError as error:
        # What was raised in the worker, as it was raised.
        raise error.cause from error
