"""Tuning of glibc's malloc so that freed memory stays in the process.

By default, each array of scores is large enough to be allocated with mmap and returned to the kernel when freed.
Zeroing the new pages took nearly half of the time of a request.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_TRIM_THRESHOLD: Final = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_MMAP_THRESHOLD: Final = -3
_LARGEST_ARRAY: Final = 32 << 20  # bytes; the maximum that glibc accepts
_KEPT: Final = 256 << 20


def keep_freed_memory() -> bool:
    """Configure glibc to reuse freed memory; return False if the C library does not support it."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_ARRAY) and mallopt(_TRIM_THRESHOLD, _KEPT))
