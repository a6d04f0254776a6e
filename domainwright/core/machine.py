"""What this machine has, and how much memory this process took at its peak."""

import ctypes
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
INFO = Path("/proc/cpuinfo")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MOST_FROM_HEAP = 32 * 2**20
"""Bytes: the largest block for which glibc's own rule comes to use the heap."""


def reset_peak() -> None:
    """Start a new peak measurement, where the system can (Linux)."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return  # macOS, Windows, locked-down containers: the peak then covers the whole process


def peak_rss_mib() -> int:
    """Largest resident memory since `reset_peak`, in MiB."""
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 * 1024 if sys.platform == "darwin" else 1024)


def resident_mib() -> int:
    """Resident memory now, in MiB; where the system does not tell (macOS), the largest so far."""
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) // 1024
    return peak_rss_mib()


def give_back() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    It keeps what a large batch used: the next measurement would begin at the last one's peak.
    """
    trim = _of_the_library("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def blocks_kept() -> Iterator[None]:
    """Inside, freed memory stays with the process, where the C library can (glibc).

    It takes blocks above 32 MB from the system one by one, and writes zeros into all their pages
    each time: 12 to 18 % of the time that scoring takes in float32. Afterwards all is given back,
    and its limits are those at which its own rule ends.
    """
    option = _of_the_library("mallopt")
    if option is None or not option(M_MMAP_THRESHOLD, 2**30):
        yield
        return
    option(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        option(M_MMAP_THRESHOLD, MOST_FROM_HEAP)
        option(M_TRIM_THRESHOLD, 2 * MOST_FROM_HEAP)
        give_back()


def _of_the_library(name: str) -> Any:
    """A function of the C library; None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def keep_few_products() -> None:
    """Bound how many compiled matrix products are kept, unless the environment says it already.

    Every new number of tokens compiles 55 for a training step, 40 MiB together, in 20 ms. oneDNN
    and torch's layer over it keep 1,024 each, torch those that oneDNN has dropped, too; 128 are
    those of the last two lengths. Both read their variable at the first product.
    """
    for keeper in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(keeper, "128")


def memory_gb() -> float:
    """Memory this process may use, in GB (10^9 bytes): the machine's, or its container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file():
        text = limit.read_text().strip()
        if text.isdigit():
            total = min(total, int(text))
    return total / 1e9


def cores() -> int:
    """Processor cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as the system tells it."""
    return _told_of_processor("model name") or platform.processor() or platform.machine()


def is_amd() -> bool:
    """Whether AMD made the processor."""
    return "AuthenticAMD" in (_told_of_processor("vendor_id") or platform.processor())


def _told_of_processor(name: str) -> str:
    """What Linux says of its first processor under this name; empty: nothing."""
    lines = INFO.read_text().splitlines() if INFO.is_file() else []
    return next((x.partition(":")[2].strip() for x in lines if x.startswith(name)), "")


def describe() -> dict[str, Any]:
    """Facts for the report: what the figures were measured on."""
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_gb": round(memory_gb(), 1),
        "system": platform.system(),
        "python": platform.python_version(),
    }
