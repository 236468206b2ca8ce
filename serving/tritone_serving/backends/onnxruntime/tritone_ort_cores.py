"""Share the CPU cores among the instances of a server's models.

A session with one thread for each of two instances carries a fifth more on two cores than sessions with two threads,
which take the cores from each other; but a request that runs alone then takes twice as long. So an instance that may
use all cores has both kinds of session, and checks before each run whether another instance is running.

Instances are processes. Each holds a lock on one byte of a common file while it runs; the kernel releases the lock if
the process dies, and one call shows whether another process holds any.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from typing import Any

N_CALM = 3  # checks without another running instance before all cores are used: busy instances pause between runs, too
FILE_VARIABLE = "TRITONE_RUNNING_FILE"  # set by the launcher; without it every session is as its config says
_FLOCK = "hhqqi"  # l_type, l_whence, l_start, l_len, l_pid


class RunningInstances:
    """The instances that are running at this moment, of all that have opened the same file."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._offset = os.getpid()

    def enter(self) -> bool:
        """Mark this instance as running, and return whether another one is."""
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._offset)
        anyone = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = struct.unpack(_FLOCK, fcntl.fcntl(self._file, fcntl.F_GETLK, anyone))
        return bool(found[0] != fcntl.F_UNLCK)

    def leave(self) -> None:
        """Mark this instance as not running."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._offset)

    def close(self) -> None:
        """Close the file, which releases this process's locks."""
        os.close(self._file)


class CoreSharingSession:
    """A session that uses all cores if no other instance has run lately, and its share of them otherwise."""

    def __init__(self, instances: RunningInstances, *, all_cores: Any, shared: Any) -> None:
        self._instances = instances
        self._all_cores = all_cores
        self._shared = shared
        self._n_calm = N_CALM

    def run(self, wanted: list[str], feed: dict[str, Any]) -> Any:
        """Run the model, as onnxruntime's `InferenceSession.run`."""
        try:
            is_shared = self._instances.enter()
        except OSError:  # a file system without locks, or too many locks: no reason to refuse a request
            is_shared = True
        self._n_calm = 0 if is_shared else self._n_calm + 1
        session = self._all_cores if self._n_calm >= N_CALM else self._shared
        try:
            return session.run(wanted, feed)
        finally:
            with contextlib.suppress(OSError):
                self._instances.leave()


def shared_thread_count(config: dict[str, Any], *, n_cores: int) -> int | None:
    """Return the number of threads of an instance that shares the cores; None if it needs no second session.

    Args:
        config: the model's configuration, as Triton passes it to a backend.
    """
    n_instances = sum(
        int(group.get("count", 1))
        for group in config.get("instance_group", ())
        if group.get("kind", "KIND_CPU") == "KIND_CPU"
    )
    configured = config.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value", "0")
    share = max(1, n_cores // max(1, n_instances))
    return share if configured == "0" and share < n_cores else None
