"""Forked processes: values that each process creates for itself, and the use of gRPC around a fork.

Sockets, locks and counters must not be shared by a fork; `PerProcess` creates them again in the child.

gRPC core resets itself in a forked child only if no thread is inside it at the moment of the fork. Otherwise calls in
the child hang beyond their deadline, or the child crashes. So `os.fork` waits a moment for the calls in progress and
holds back new ones; where that does not help (a long call, an open stream, an open `grpc.aio` channel, which keeps a
thread inside gRPC), the child raises an error instead of using gRPC.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from tritone.exceptions import ProcessBoundError

T = TypeVar("T")

LONGEST_WAIT_S: Final = 2.0  # how long a fork waits for calls in progress
_POLL_S: Final = 0.001

_inside: Final[set[Use]] = set()
_may_begin = threading.Lock()  # held during a fork
_owner_pid: int | None = None


class PerProcess(Generic[T]):
    """A value that each process creates for itself.

    A process id is compared instead of registering a callback with `os.register_at_fork`, because programs that embed
    Python also fork without it. No lock is needed: threads that call `get` for the first time in a child at once may
    make two values, of which one is kept.

    Args:
        make: makes the value; called at once, and again by the first `get` in a forked child.
        keep: keep the parent's value in a child instead of dropping it, where its destructor is not safe after a fork.
    """

    def __init__(self, make: Callable[[], T], *, keep: bool = False) -> None:
        self._make = make
        self._kept: list[T] | None = [] if keep else None
        self._held = (os.getpid(), make())

    def get(self) -> T:
        """Return this process's value."""
        pid, value = self._held
        if pid != os.getpid():
            own = self._make()
            if self._kept is not None:
                self._kept.append(value)
            self._held = (os.getpid(), own)
            return own
        return value

    def get_if_made_here(self) -> T | None:
        """Return this process's value, or None if it has not made one."""
        pid, value = self._held
        return value if pid == os.getpid() else None


class Use:
    """Marks that a thread is inside gRPC, from creation until `end`.

    Args:
        lasts: the use may take long, so a fork does not wait for its end.
        timeout_s: how long to wait for a fork in progress.

    Raises:
        ProcessBoundError: gRPC cannot be used in this process.
        TimeoutError: a fork took longer.
    """

    def __init__(self, *, lasts: bool = False, timeout_s: float = 2 * LONGEST_WAIT_S) -> None:
        check_usable()
        self.lasts = lasts
        self._pid = os.getpid()
        if not _may_begin.acquire(timeout=timeout_s):
            raise TimeoutError
        _inside.add(self)
        _may_begin.release()

    def end(self) -> None:
        """End the use; in a forked child nothing changes, because the state at the moment of the fork counts."""
        if self._pid == os.getpid():
            _inside.discard(self)


@contextmanager
def inside_grpc(*, lasts: bool = False, timeout_s: float = 2 * LONGEST_WAIT_S) -> Iterator[None]:
    """Mark a block as one `Use` of gRPC.

    Raises:
        ProcessBoundError: gRPC cannot be used in this process.
        TimeoutError: a fork took longer.
    """
    use = Use(lasts=lasts, timeout_s=timeout_s)
    try:
        yield
    finally:
        use.end()


def check_usable() -> None:
    """Check that this process can use gRPC.

    Raises:
        ProcessBoundError: this process was forked while its parent was inside gRPC.
    """
    global _owner_pid  # noqa: PLW0603 - gRPC's own state is global too
    pid = os.getpid()
    if _owner_pid == pid:
        return
    if _owner_pid is not None and _inside:
        raise ProcessBoundError(
            "gRPC cannot be used in this process: it was forked while its parent was making gRPC calls; use an "
            "http:// address, create the client in processes that are started by spawn or forkserver, or fork before "
            "the first gRPC call",
            reason="forked",
        )
    _owner_pid = pid


def _before_fork() -> None:
    _may_begin.acquire()
    until_s = time.monotonic() + LONGEST_WAIT_S
    while any(not use.lasts for use in tuple(_inside)) and time.monotonic() < until_s:
        if any(use.lasts for use in tuple(_inside)):
            return  # gRPC cannot be used in the child anyway
        time.sleep(_POLL_S)


def _after_fork_in_parent() -> None:
    _may_begin.release()


def _after_fork_in_child() -> None:
    global _may_begin  # noqa: PLW0603
    _may_begin = threading.Lock()


if hasattr(os, "register_at_fork"):  # POSIX
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
