"""Keeps freed memory in the process: arrays as large as a call's scores otherwise come anew from the kernel each time.

Zeroing their pages took nearly half of the time of answering.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_TRIM_THRESHOLD: Final = -1  # mallopt's names for its settings, of glibc's malloc.h
_MMAP_THRESHOLD: Final = -3
_LARGEST_ARRAY: Final = 32 << 20  # bytes; the most that glibc accepts
_KEPT: Final = 256 << 20


def keep_freed_memory() -> bool:
    """Tell glibc to reuse what is freed; answers whether it was told, which it is not with other C libraries."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_ARRAY) and mallopt(_TRIM_THRESHOLD, _KEPT))
