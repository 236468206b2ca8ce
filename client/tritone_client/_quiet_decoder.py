"""Keep the MP3 decoder inside libsndfile from writing to the process's stderr.

mpg123 prints its remarks with `fprintf(stderr, ...)`, and libsndfile gives no way to turn that off
(https://github.com/libsndfile/libsndfile/issues/958). Redirecting file descriptor 2 would take the output of all other
threads and of processes started meanwhile. The C library's `stderr` is a variable: for the duration of a call it points
to a stream that writes to /dev/null, which concerns C code that prints in that moment and nothing else.
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
    nowhere: int


class _Depth:
    """How many threads are within `quiet_decoder`."""

    n = 0


@cache
def _streams() -> _Streams | None:
    """The C library's variable `stderr`, its value, and a stream to /dev/null; None where that is not possible."""
    if platform.libc_ver()[0] != "glibc":  # in others it may be a constant
        return None
    c_library = ctypes.CDLL(None)
    c_library.fopen.restype = ctypes.c_void_p
    nowhere = c_library.fopen(b"/dev/null", b"we")
    variable = ctypes.c_void_p.in_dll(c_library, "stderr")
    return _Streams(variable, variable.value, nowhere) if nowhere else None


@contextmanager
def quiet_decoder() -> Iterator[None]:
    """Discard what C code prints to `stderr` within the block; any number of threads may be in one."""
    with _LOCK:
        streams = _streams()
        _Depth.n += 1
        if streams is not None:
            streams.variable.value = streams.nowhere
    try:
        yield
    finally:
        with _LOCK:
            _Depth.n -= 1
            if streams is not None and _Depth.n == 0:
                streams.variable.value = streams.original


def _restore_in_child() -> None:
    """A forked process has none of the other threads that would put `stderr` back."""
    streams = _streams()
    _Depth.n = 0
    if streams is not None:
        streams.variable.value = streams.original
    _LOCK.release()


os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_restore_in_child)
