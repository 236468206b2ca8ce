"""Values that each process creates for itself, such as sockets, locks and counters, which a fork must not share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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
