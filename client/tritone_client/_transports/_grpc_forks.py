"""Whether gRPC can be used in this process after a fork.

gRPC core resets itself in a forked child only if no thread was inside it at the moment of the fork. Otherwise calls in
the child hang beyond their deadline, or the child crashes (measured with grpcio 1.85 and four threads calling: 5 of 17
children hung with the parent's channel, and 10 of 200 crashed with a channel of their own; with no call in progress,
all of 400 worked). So calls in progress are counted, and a child of a fork at such a moment gets an error instead of using
gRPC. An open `grpc.aio` channel keeps a thread inside gRPC.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tritone_client._exceptions import ProcessBoundError

# Set operations are atomic, so no lock is needed, which a fork could copy while it is held.
_inside: Final[set[Use]] = set()
_owner_pid: int | None = None


class Use:
    """A use of gRPC, during which a thread is inside it; from creation until `end`.

    Raises:
        ProcessBoundError: gRPC cannot be used in this process.
    """

    def __init__(self) -> None:
        check_usable()
        self._pid = os.getpid()
        _inside.add(self)

    def end(self) -> None:
        """Note that the use is over; in a forked child, nothing is changed, as it was not at the moment of the fork."""
        if self._pid == os.getpid():
            _inside.discard(self)


@contextmanager
def inside_grpc() -> Iterator[None]:
    """Mark a block as a `Use`.

    Raises:
        ProcessBoundError: gRPC cannot be used in this process.
    """
    use = Use()
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
            "the first gRPC call"
        )
    _owner_pid = pid
