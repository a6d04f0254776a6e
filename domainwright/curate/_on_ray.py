"""Pieces judged by Ray's workers, on this machine or on a cluster's.

Ray is `RAY_ADDRESS`'s cluster where that is set, else one of this machine alone, on the loopback
address. Every machine needs this package, and sees the dataset's folder under the same path. A
piece whose worker or machine is lost is judged again elsewhere; the dataset is the same.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from domainwright.core.errors import CapabilityError
from domainwright.curate._judging import Items, Judging, PieceMaker, Task, shared_out


@contextlib.contextmanager
def ray_judging(task: Task, workers: int | None) -> Iterator[Judging]:
    """As `_judging.judging`.

    Args:
        workers: None: one for each of Ray's processors.

    Raises:
        CapabilityError: Ray is not installed, or cannot be reached.
    """
    # Without this Ray asks on the terminal, or reports to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise CapabilityError(
            "Ray is not installed.", "run `pip install 'domainwright[ray]'`, or leave --on out."
        ) from error
    begun = not ray.is_initialized()
    if begun:
        _begin(ray, workers)
    try:
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        # Without limit: a machine of a cluster may come and go.
        kind = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(PieceMaker)
        shared = ray.put(task)
        actors = [kind.remote(shared) for _ in range(count)]
        with shared_out([partial(_make, ray, actor) for actor in actors]) as judge:
            yield judge
    finally:
        if begun:
            ray.shutdown()


def _begin(ray: Any, workers: int | None) -> None:
    own: Mapping[str, Any] = {}
    if "RAY_ADDRESS" not in os.environ:
        own = {
            "num_cpus": workers,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        ray.init(log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise CapabilityError(
            f"Ray cannot be reached ({str(error).splitlines()[0]}).",
            "start the cluster or correct RAY_ADDRESS; without it Ray runs on this machine.",
        ) from error


def _make(ray: Any, actor: Any, number: int, items: Items) -> None:
    try:
        ray.get(actor.make.remote(number, items))
    except ray.exceptions.RayTaskError as error:
        # What was raised in the worker, as it was raised.
        raise error.cause from error
