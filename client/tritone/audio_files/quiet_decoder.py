"""Keep the MP3 decoder inside libsndfile from writing to the process's stderr.

mpg123 prints its remarks with `fprintf(stderr, ...)`, and libsndfile gives no way to turn that off
(https://github.com/libsndfile/libsndfile/issues/958). Redirecting file descriptor 2 would take the output of all other
threads and of processes started meanwhile. The C library's `stderr` is a variable: for the duration of a call it points
to a stream that writes to /dev/null, which affects only C code that prints during the call.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final, NamedTuple

_LOCK: Final = threading.Lock()


class _Streams(NamedTuple):
    variable: ctypes.c_void_p
    original: int | None
    null_stream: int


class _Depth:
    """Number of threads that are within `quiet_decoder`."""

    n = 0


@cache
def _streams() -> _Streams | None:
    """Return the C library's variable `stderr`, its value, and a stream to /dev/null; None where that is impossible."""
    if platform.libc_ver()[0] != "glibc":  # in other C libraries `stderr` may be a constant
        return None
    c_library = ctypes.CDLL(None)
    c_library.fopen.restype = ctypes.c_void_p
    null_stream = c_library.fopen(b"/dev/null", b"we")
    variable = ctypes.c_void_p.in_dll(c_library, "stderr")
    return _Streams(variable, variable.value, null_stream) if null_stream else None


@contextmanager
def quiet_decoder() -> Iterator[None]:
    """Discard what C code prints to `stderr` within the block; several threads may be in such blocks at once."""
    with _LOCK:
        streams = _streams()
        _Depth.n += 1
        if streams is not None:
            streams.variable.value = streams.null_stream
    try:
        yield
    finally:
        with _LOCK:
            _Depth.n -= 1
            if streams is not None and _Depth.n == 0:
                streams.variable.value = streams.original


def _restore_in_child() -> None:
    """Restore `stderr` after a fork: the threads that would restore it do not exist in the child."""
    streams = _streams()
    _Depth.n = 0
    if streams is not None:
        streams.variable.value = streams.original
    _LOCK.release()


os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_restore_in_child)
