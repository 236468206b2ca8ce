"""Tuning of glibc's malloc so that freed memory returns to the system.

By default, glibc keeps a pool for each thread that decodes a recording or renders a piece, and raises its thresholds
with the size of the arrays that are freed: the gateway's memory then grows for many minutes. These settings took a
quarter off it under the load of `python -m benchmarks.soak_gateway`.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_TRIM_THRESHOLD: Final = -1  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX of glibc's malloc.h
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
_LARGEST_POOLED: Final = 128 << 10  # bytes; larger arrays are returned when they are freed
_N_ARENAS: Final = 2


def return_freed_memory() -> bool:
    """Configure glibc to return freed memory; return False if the C library does not support it."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_ARENA_MAX, _N_ARENAS), (_MMAP_THRESHOLD, _LARGEST_POOLED), (_TRIM_THRESHOLD, _LARGEST_POOLED))
    return all(mallopt(name, value) for name, value in settings)
