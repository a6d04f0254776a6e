"""Curation in C++, where it can be compiled: see `curate._sketch` and `curate._glance`."""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from domainwright.core.compiled import NotCompiled, compiled

FLAGS = "-O3 -std=c++17 -fPIC".split()


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be had."""
    try:
        path = compiled("curate", sorted(Path(__file__).parent.glob("*.cpp")), FLAGS)
        found = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except (NotCompiled, OSError):
        return None
    found.dw_band_pairs.restype = ctypes.c_int64
    found.dw_distinct.restype = ctypes.c_int64
    found.dw_similarity.restype = ctypes.c_double
    found.dw_glance_new.restype = ctypes.c_void_p
    return found


def address(array: NDArray[Any]) -> ctypes.c_void_p:
    """Where the numbers of an array lie, which must be in use until the call returns."""
    return ctypes.c_void_p(array.ctypes.data)


long = ctypes.c_int64
