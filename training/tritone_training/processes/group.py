"""The group of processes that torchrun started: how it forms, exchanges values, and ends when one of them fails."""

from __future__ import annotations

import json
import os
import pickle
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
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from tritone import TritoneError
from tritone_training.exceptions import OtherProcessError, ProcessGroupError, TrainingError

TIMEOUT_VARIABLE: Final = "TRITONE_PROCESSES_TIMEOUT_S"
_DEFAULT_TIMEOUT_S: Final = 1800.0
_LONGEST_TIMEOUT_S: Final = 86_400.0
_POLL_S: Final = 0.1
_FAST_POLL_S: Final = 0.02
_CONFIRMATION_S: Final = 5.0  # in which processes that are alive notice that another one is not
_FAILED: Final = "failed"
_ALIVE: Final = "alive"

_joined_groups: Final[list[ProcessGroup]] = []


def is_launched() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first_process() -> bool:
    """Return whether this process prints: the first one that torchrun started, or one that was started otherwise."""
    return not is_launched() or os.environ.get("RANK", "0") == "0"


def current() -> ProcessGroup | None:
    """Return the group that this process has joined; None if it trains alone."""
    return _joined_groups[-1] if _joined_groups else None


@dataclass(eq=False)
class ProcessGroup:
    """Processes that train one model together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_size: of them, those on this host.
        timeout_s: longest time that a process waits for the others.
        store: small values by name, which all processes see.
        files: torch's group for tensors on CPUs.
    """

    rank: int
    size: int
    local_size: int
    timeout_s: float
    store: Any
    files: Any
    _n_sent: int = field(default=0, init=False)

    @property
    def is_first(self) -> bool:
        """Whether this process writes the checkpoint, the logs and the output."""
        return self.rank == 0

    @property
    def n_hosts(self) -> int:
        """The number of hosts."""
        return self.size // self.local_size

    def from_first(self, value: Any = None) -> Any:
        """Return the value of the first process; those of the others are ignored. For small values."""
        self._n_sent += 1
        name = f"value/{self._n_sent}"
        if self.is_first:
            self.store.set(name, pickle.dumps(value))
            return value
        self._wait_for([name], lambda missing: "the first process did not go on")
        return pickle.loads(self.store.get(name))  # noqa: S301 - written by the first process of the same command

    def finish(self, value: Any = None) -> Any:
        """Return the value of the first process, which waits until all have it, because the store may end with it."""
        value = self.from_first(value)
        names = [f"finished/{rank}" for rank in range(self.size)]
        self.store.set(names[self.rank], "")
        if self.is_first:
            self._wait_for(names, lambda missing: f"{_described(missing, self.size)} did not finish")
        return value

    def gather(self, text: str) -> list[str]:
        """Return the text of every process, by rank."""
        self._n_sent += 1
        names = [f"text/{self._n_sent}/{rank}" for rank in range(self.size)]
        self.store.set(names[self.rank], text)
        self._wait_for(names, lambda missing: f"{_described(missing, self.size)} did not go on")
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

    def share_files(self, folder: Path, names: Sequence[str] | None = None) -> None:
        """Copy files of the first process's folder to the same folder of the others, which have folders of their own.

        Args:
            folder: of this process.
            names: files below it, those that do not exist are left out; None for all.
        """
        found: list[str] = []
        if self.is_first:
            wanted = [each for each in sorted(folder.rglob("*")) if names is None or each.name in names]
            found = [str(each.relative_to(folder)) for each in wanted if each.is_file()]
        for name in self.from_first(found):
            content = (folder / name).read_bytes() if self.is_first else b""
            size = int(self.from_first(len(content)))
            buffer = torch.frombuffer(bytearray(content or bytes(size)), dtype=torch.uint8) if size else torch.empty(0)
            if size:
                distributed.broadcast(buffer, 0, group=self.files)
            if not self.is_first:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(buffer.numpy().tobytes())

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
            return OtherProcessError("stopped, because the first process ended")
        return ProcessGroupError(
            f"the processes cannot exchange data ({str(error).splitlines()[0]}); check the network"
        )


@contextmanager
def joined() -> Iterator[ProcessGroup | None]:
    """Join the other processes that torchrun started, for the block; None in a process that was started otherwise.

    An error in one process ends all: the first one to fail raises its error, the others raise `OtherProcessError`.

    Raises:
        ProcessGroupError: not all processes started within the timeout, or one ended or stopped responding.
    """
    if not is_launched() or _joined_groups:
        yield current()
        return
    group = _join()
    _joined_groups.append(group)
    try:
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
        _joined_groups.clear()
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _join() -> ProcessGroup:
    timeout_s = _timeout_s()
    timeout = timedelta(seconds=timeout_s)
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
    except (RuntimeError, ValueError) as error:
        raise ProcessGroupError(
            f"torchrun's store cannot be reached within {timeout_s:g} s ({str(error).splitlines()[0]}); check "
            f"--rdzv-endpoint and the network"
        ) from error
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if size % local_size:
        raise TrainingError(
            f"--nproc-per-node: expected the same number on every host, got {local_size} of {size} on this one"
        )
    own = _meet(store, rank, size, timeout_s)
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
    files = distributed.new_group(backend="gloo", timeout=timeout)
    return ProcessGroup(rank, size, local_size, timeout_s, own, files)


def _meet(store: Any, rank: int, size: int, timeout_s: float) -> Any:
    """Return a part of the store for the processes that are running now.

    After a restart torchrun's store still has the values of the processes before. So the first process answers the
    others, who ask under names that nobody used before.

    Raises:
        ProcessGroupError: not all processes ask, or answer, within the timeout.
    """
    until = time.monotonic() + timeout_s
    name = uuid.uuid4().hex
    if rank:
        store.set(f"tritone/question/{rank}", name)
        while not store.check([answer := f"tritone/answer/{name}"]):
            _wait_until(until, [0], size, timeout_s)
        own = PrefixStore(store.get(answer).decode(), store)
        own.set(f"answered/{rank}", "")
        return own
    own = PrefixStore(name, store)
    while missing := [each for each in range(1, size) if not own.check([f"answered/{each}"])]:
        for each in missing:
            if store.check([question := f"tritone/question/{each}"]):
                store.set(f"tritone/answer/{store.get(question).decode()}", name)
        _wait_until(until, missing, size, timeout_s)
    return own


def _wait_until(until: float, missing: Sequence[int], size: int, timeout_s: float) -> None:
    if time.monotonic() > until:
        raise ProcessGroupError(
            f"{_described(missing, size)} did not start within {timeout_s:g} s; see its output, or raise "
            f"{TIMEOUT_VARIABLE}"
        )
    time.sleep(_FAST_POLL_S)


def _timeout_s() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE)
    try:
        value = _DEFAULT_TIMEOUT_S if not text else float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= _LONGEST_TIMEOUT_S:
        raise TrainingError(f"{TIMEOUT_VARIABLE}: expected 1 to {_LONGEST_TIMEOUT_S:g} seconds, got {text!r}")
    return value


def is_communication_error(error: RuntimeError) -> bool:
    """Return whether an error comes from the communication between processes; that of Gloo has no type of its own."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()


def _described(ranks: Sequence[int], size: int) -> str:
    numbers = ", ".join(map(str, ranks))
    return f"process{'es' if len(ranks) > 1 else ''} {numbers} of 0 to {size - 1}"
