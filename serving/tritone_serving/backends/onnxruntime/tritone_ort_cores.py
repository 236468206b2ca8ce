"""Shares the cores among the instances of a server: all of them for who computes alone, an equal part in a crowd.

Two sessions of one thread each carry a fifth more on two cores than two of two threads, which take the cores from
each other; but somebody who asks alone waits for one thread twice as long. So an instance that may use all cores has
both kinds of session, and looks whether another instance computes before each run.

Instances are processes. Each holds a lock on a byte of one file while it computes, which the kernel takes back when a
process dies, and one call tells whether anybody else holds any.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from typing import Any

N_CALM = 3  # looks without anybody else before all cores are taken: in a crowd, too, others pause between two runs
FILE_VARIABLE = "TRITONE_RUNNING_FILE"  # set by the launcher; without it every session is as its config says
_FLOCK = "hhqqi"  # l_type, l_whence, l_start, l_len, l_pid


class Crowd:
    """Who computes at this moment, of all instances that have opened the same file."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._place = os.getpid()

    def enter(self) -> bool:
        """Be seen to compute; answers whether somebody else is."""
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._place)
        anyone = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = struct.unpack(_FLOCK, fcntl.fcntl(self._file, fcntl.F_GETLK, anyone))
        return bool(found[0] != fcntl.F_UNLCK)

    def leave(self) -> None:
        """Be seen no more."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._place)

    def close(self) -> None:
        """Close the file; locks of this process go with it."""
        os.close(self._file)


class SharedCores:
    """Runs like a session: `alone` when nobody else has computed lately, `crowded` otherwise."""

    def __init__(self, crowd: Crowd, *, alone: Any, crowded: Any) -> None:
        self._crowd = crowd
        self._alone = alone
        self._crowded = crowded
        self._n_calm = N_CALM

    def run(self, wanted: list[str], feed: dict[str, Any]) -> Any:
        """As onnxruntime's `InferenceSession.run`."""
        try:
            somebody = self._crowd.enter()
        except OSError:  # a file system without locks, or no more of them: no reason to refuse a request
            somebody = True
        self._n_calm = 0 if somebody else self._n_calm + 1
        session = self._alone if self._n_calm >= N_CALM else self._crowded
        try:
            return session.run(wanted, feed)
        finally:
            with contextlib.suppress(OSError):
                self._crowd.leave()


def threads_in_a_crowd(config: dict[str, Any], *, n_cores: int) -> int | None:
    """An instance's part of the cores; None where its sessions need not differ.

    Args:
        config: the model's, as Triton hands it to a backend.
    """
    n_instances = sum(
        int(group.get("count", 1))
        for group in config.get("instance_group", ())
        if group.get("kind", "KIND_CPU") == "KIND_CPU"
    )
    asked = config.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value", "0")
    part = max(1, n_cores // max(1, n_instances))
    return part if asked == "0" and part < n_cores else None
