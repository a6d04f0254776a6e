"""Ray, begun where none runs yet; imported only where it is asked for.

Ray is `RAY_ADDRESS`'s cluster where that is set, else one of this machine alone, on the loopback
address.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from domainwright.core.errors import CapabilityError


def ray_of(processors: int | None) -> AbstractContextManager[Any]:
    """Ray as long as the block lasts.

    Args:
        processors: that a cluster of this machine alone has; None: as many as the machine.

    Raises:
        CapabilityError: Ray is not installed; in the block, that it cannot be reached.
    """
    # Without this Ray asks on the terminal, or reports to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise CapabilityError(
            "Ray is not installed.", "run `pip install 'domainwright[ray]'`, or leave --on out."
        ) from error
    return _running(ray, processors)


@contextmanager
def _running(ray: Any, processors: int | None) -> Iterator[Any]:
    begun = not ray.is_initialized()
    if begun:
        _begin(ray, processors)
    try:
        yield ray
    finally:
        if begun:
            ray.shutdown()


def _begin(ray: Any, processors: int | None) -> None:
    own: Mapping[str, Any] = {}
    if "RAY_ADDRESS" not in os.environ:
        own = {
            "address": "local",
            "num_cpus": processors,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    on_end = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise CapabilityError(
            f"Ray cannot be reached ({str(error).splitlines()[0]}).",
            "start the cluster or correct RAY_ADDRESS; without it Ray runs on this machine.",
        ) from error
    finally:
        # Ray puts its own in the place of whatever stops our work in good order.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_end)
