"""The group of processes that torchrun started: how it forms, exchanges values, and ends when one of them fails."""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
from torch import distributed
from torch.distributed import PrefixStore  # type: ignore[attr-defined] # public, but not in an `__all__`
from torch.distributed.rendezvous import rendezvous

from tritone import TritoneError
from tritone_training.exceptions import OtherProcessError, ProcessGroupError, TrainingError
from tritone_training.timeouts import timeout_of

TIMEOUT_VARIABLE: Final = "TRITONE_PROCESSES_TIMEOUT_S"
_DEFAULT_TIMEOUT_S: Final = 1800.0
_POLL_S: Final = 0.1
_FAST_POLL_S: Final = 0.02
_CONFIRMATION_S: Final = 5.0  # in which processes that are alive notice that another one is not
_FAILED: Final = "failed"
_ALIVE: Final = "alive"

# Gloo raises RuntimeError; its messages have the source line, such as [/.../gloo/gloo/transport/tcp/pair.cc:553]. If
# one of several operations times out, the others raise "Application timeout caused pair closure".
_GLOO_ERROR: Final = re.compile(
    r"\[(?:enforce fail at )?[^\]\s]*\bgloo/gloo/[^\]\s]+\.(?:cc|h):\d+\]"
    r"|^(?:Gloo |Operation timed out!|Application timeout caused pair closure)",
    re.MULTILINE,
)

_current: TrainingGroup | None = None


def is_launched() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_rank_zero() -> bool:
    """Return whether this process is rank 0, which prints; so is a process that torchrun did not start."""
    return not is_launched() or os.environ.get("RANK", "0") == "0"


def current() -> TrainingGroup | None:
    """Return the group that this process has joined; None if it trains alone."""
    return _current


@dataclass(eq=False)
class TrainingGroup:
    """Processes that train one model together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_size: number of processes on this host.
        timeout_s: longest time that a process waits for the others.
        store: key-value store of all processes, for small values.
        cpu_group: torch's process group for tensors on CPUs.
    """

    rank: int
    size: int
    local_size: int
    timeout_s: float
    store: Any
    cpu_group: Any
    _n_sent: int = field(default=0, init=False)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes the checkpoint, the logs and the output."""
        return self.rank == 0

    @property
    def n_hosts(self) -> int:
        """The number of hosts."""
        return self.size // self.local_size

    def broadcast(self, value: Any = None) -> Any:
        """Return the value of rank 0; those of the others are ignored.

        Args:
            value: small, of JSON's types, because the store has no authentication and a pickle could run code. On the
                other ranks, tuples become lists.

        Raises:
            ProcessGroupError: rank 0 did not send a value within the timeout, or the value received is not JSON.
        """
        self._n_sent += 1
        name = f"value/{self._n_sent}"
        if self.is_rank_zero:
            self.store.set(name, json.dumps(value))
            return value
        self._wait_for([name], lambda missing: f"{_described([0], self.size)} did not respond")
        try:
            return json.loads(self.store.get(name))
        except ValueError as error:
            raise ProcessGroupError(
                f"{name}: expected JSON of process 0, got other data in torchrun's store; check that only the hosts of "
                f"the training can reach --rdzv-endpoint"
            ) from error

    def finish(self, value: Any = None) -> Any:
        """Return the value of rank 0, which waits until all have it, because the store may end with its process."""
        value = self.broadcast(value)
        names = [f"finished/{rank}" for rank in range(self.size)]
        self.store.set(names[self.rank], "")
        if self.is_rank_zero:
            self._wait_for(names, lambda missing: f"{_described(missing, self.size)} did not finish")
        return value

    def gather(self, text: str) -> list[str]:
        """Return the text of every process, by rank."""
        self._n_sent += 1
        names = [f"text/{self._n_sent}/{rank}" for rank in range(self.size)]
        self.store.set(names[self.rank], text)
        self._wait_for(names, lambda missing: f"{_described(missing, self.size)} did not respond")
        return [self.store.get(name).decode() for name in names]

    def require_equal(self, text: str, what: str) -> None:
        """Compare a text between all processes.

        Raises:
            TrainingError: it differs.
        """
        texts = self.gather(text)
        different = [rank for rank, each in enumerate(texts) if each != texts[0]]
        if different:
            raise TrainingError(
                f"{what}: expected the same in all {self.size} processes, got another in "
                f"{_described(different, self.size)}"
            )

    def broadcast_files(self, folder: Path, names: Sequence[str] | None = None) -> None:
        """Copy files of rank 0's folder to the folders of the other ranks.

        Args:
            folder: of this process.
            names: names of files in the folder or below; missing ones are left out. None for all.

        Raises:
            ProcessGroupError: rank 0 did not respond, or a path received is not below the folder.
        """
        found: list[str] = []
        if self.is_rank_zero:
            wanted = [each for each in sorted(folder.rglob("*")) if names is None or each.name in names]
            found = [each.relative_to(folder).as_posix() for each in wanted if each.is_file()]
        for name in self.broadcast(found):
            path = _path_below(folder, name)
            content = path.read_bytes() if self.is_rank_zero else b""
            size = int(self.broadcast(len(content)))
            buffer = torch.frombuffer(bytearray(content or bytes(size)), dtype=torch.uint8) if size else torch.empty(0)
            if size:
                distributed.broadcast(buffer, 0, group=self.cpu_group)
            if not self.is_rank_zero:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(buffer.numpy().tobytes())

    def _wait_for(self, names: Sequence[str], describe: Callable[[list[int]], str]) -> None:
        """Wait for names in the store.

        Raises:
            OtherProcessError: another process failed meanwhile.
            ProcessGroupError: one is missing at the end of the timeout.
        """
        until = time.monotonic() + self.timeout_s
        while missing := [number for number, name in enumerate(names) if not self.store.check([name])]:
            if self.store.check([_FAILED]):
                raise self._other_error()
            if time.monotonic() > until:
                raise ProcessGroupError(
                    f"{describe(missing)} within {self.timeout_s:g} s; see the output of that process, or raise "
                    f"{TIMEOUT_VARIABLE}"
                )
            time.sleep(_FAST_POLL_S)

    def report(self, message: str) -> bool:
        """Report that this process failed; return whether it is the first one that did."""
        own = json.dumps({"rank": self.rank, "message": message})
        try:
            return bool(self.store.compare_set(_FAILED, "", own).decode() == own)
        except RuntimeError:  # the store ended with another process
            return False

    def _other_error(self) -> OtherProcessError:
        failed = json.loads(self.store.get(_FAILED))
        return OtherProcessError(f"stopped, because process {failed['rank']} failed: {failed['message']}")

    def explain(self, error: RuntimeError) -> ProcessGroupError:
        """Return which processes are missing, after a failure of the communication between them."""
        try:
            self.store.set(f"{_ALIVE}/{self.rank}", "")
            names = [f"{_ALIVE}/{rank}" for rank in range(self.size)]
            until = time.monotonic() + _CONFIRMATION_S
            while missing := [rank for rank, name in enumerate(names) if not self.store.check([name])]:
                if self.store.check([_FAILED]):
                    return self._other_error()
                if time.monotonic() > until:
                    return ProcessGroupError(
                        f"{_described(missing, self.size)} ended or did not respond within {self.timeout_s:g} s; see "
                        f"its output, and continue with --resume"
                    )
                time.sleep(_POLL_S)
        except RuntimeError:
            return OtherProcessError("stopped, because process 0 ended")
        return ProcessGroupError(
            f"the processes cannot exchange data ({str(error).splitlines()[0]}); check the network"
        )


@contextmanager
def join_training_group() -> Iterator[TrainingGroup | None]:
    """Join the other processes that torchrun started, for the block; None in a process that was started otherwise.

    An error in one process ends all: the first one to fail raises its error, the others raise `OtherProcessError`.

    Raises:
        ProcessGroupError: not all processes started within the timeout, or one ended or stopped responding.
        TrainingError: hosts have different numbers of processes.
    """
    global _current  # noqa: PLW0603 - torch's process group is global too
    if not is_launched() or _current is not None:
        yield _current
        return
    group = _current = _join()
    try:
        group.require_equal(str(group.local_size), "--nproc-per-node")  # of every host: `n_hosts` is computed from it
        yield group
    except OtherProcessError:
        raise
    except RuntimeError as error:
        if not is_communication_error(error):
            group.report(str(error))
            raise
        explained = group.explain(error)
        if isinstance(explained, OtherProcessError) or not group.report(str(explained)):
            raise OtherProcessError(str(explained)) from error
        raise explained from error
    except TritoneError as error:
        if not group.report(str(error)):
            raise OtherProcessError(str(error)) from error
        raise
    except BaseException as error:
        group.report(repr(error))
        raise
    finally:
        _current = None
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _join() -> TrainingGroup:
    timeout_s = timeout_of(TIMEOUT_VARIABLE, _DEFAULT_TIMEOUT_S)
    timeout = timedelta(seconds=timeout_s)
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
    except (RuntimeError, ValueError) as error:
        raise ProcessGroupError(
            f"torchrun's store cannot be reached within {timeout_s:g} s ({str(error).splitlines()[0]}); check "
            f"--rdzv-endpoint and the network"
        ) from error
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    own = _register(store, rank, size, timeout_s)
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    if torch.cuda.is_available() and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore("torch", own),
        rank=rank,
        world_size=size,
        timeout=timeout,
    )
    cpu_group = distributed.new_group(backend="gloo", timeout=timeout)
    return TrainingGroup(rank, size, local_size, timeout_s, own, cpu_group)


def _register(store: Any, rank: int, size: int, timeout_s: float) -> Any:
    """Return the store with a prefix for the current incarnation of the group.

    torchrun keeps its store across restarts, so each incarnation needs keys of its own: every other rank registers a
    random id, and rank 0 replies to this id with the prefix.

    Raises:
        ProcessGroupError: a rank did not register, or rank 0 did not reply, within the timeout.
    """
    until = time.monotonic() + timeout_s
    own_id = uuid.uuid4().hex
    if rank:
        store.set(f"tritone/request/{rank}", own_id)
        while not store.check([reply := f"tritone/session/{own_id}"]):
            _wait_until(until, [0], size, timeout_s)
        session = PrefixStore(store.get(reply).decode(), store)
        session.set(f"registered/{rank}", "")
        return session
    session = PrefixStore(own_id, store)
    while missing := [each for each in range(1, size) if not session.check([f"registered/{each}"])]:
        for each in missing:
            if store.check([request := f"tritone/request/{each}"]):
                store.set(f"tritone/session/{store.get(request).decode()}", own_id)
        _wait_until(until, missing, size, timeout_s)
    return session


def _wait_until(until: float, missing: Sequence[int], size: int, timeout_s: float) -> None:
    if time.monotonic() > until:
        raise ProcessGroupError(
            f"{_described(missing, size)} did not start within {timeout_s:g} s; see its output, or raise "
            f"{TIMEOUT_VARIABLE}"
        )
    time.sleep(_FAST_POLL_S)


def is_communication_error(error: RuntimeError) -> bool:
    """Return whether an error was raised by the communication between processes."""
    return isinstance(error, distributed.DistError) or _GLOO_ERROR.search(str(error)) is not None


def _path_below(folder: Path, name: str) -> Path:
    """Return the path of a file that rank 0 names.

    Raises:
        ProcessGroupError: the path is outside the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ProcessGroupError(
            f"{name}: expected the path of a file in {folder}, got one outside; check "
            f"that only the hosts of the training can reach --rdzv-endpoint"
        )
    return path


def _described(ranks: Sequence[int], size: int) -> str:
    numbers = ", ".join(map(str, ranks))
    return f"process{'es' if len(ranks) > 1 else ''} {numbers} of 0 to {size - 1}"
