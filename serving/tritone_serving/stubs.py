"""The Python stubs of a server, as the kernel sees them: the model of each, and whether it is stopped or busy.

Triton 2.51 starts each instance of a Python model as a process of its own and never starts one again. When it is gone
or stopped, every request that meets it fails after a second, and the model stays «ready».
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_STUB = b"triton_python_backend_stub"
_INSTANCE_ARGUMENT = 8  # `genre_cnn_0_1`: model, group, instance


@dataclass(frozen=True)
class Stub:
    """One process.

    Attributes:
        state: a letter as in `ps`: R runs, S waits, D waits for a device, T is stopped, t is traced.
        cpu_ticks: processor time that it has used, in hundredths of a second as a rule.
        running: some thread of it has work for a processor.
    """

    pid: int
    model: str
    state: str
    cpu_ticks: int
    running: bool

    @property
    def stopped(self) -> bool:
        """It gets no processor, for somebody sent SIGSTOP or holds it in a debugger."""
        return self.state in "Tt"


def stubs_of(server_pid: int) -> list[Stub]:
    """The live stubs in a server's process group; a zombie is not alive."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            fields = _stat(folder)
            if int(fields[2]) != server_pid or fields[0] in "ZX":
                continue
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            if not arguments[0].endswith(_STUB) or len(arguments) <= _INSTANCE_ARGUMENT:
                continue
            running = any(_stat(task)[0] in "RD" for task in (folder / "task").iterdir())
        except OSError:  # it ended while it was read
            continue
        model = arguments[_INSTANCE_ARGUMENT].decode("utf-8", "replace").rsplit("_", 2)[0]
        found.append(Stub(int(folder.name), model, fields[0], int(fields[11]) + int(fields[12]), running))
    return found


def is_stopped(pid: int) -> bool:
    """Whether a process is there and gets no processor, as `Stub.stopped`."""
    try:
        return _stat(Path(f"/proc/{pid}"))[0] in "Tt"
    except OSError:
        return False


def cpu_ticks(pids: Iterable[int]) -> int:
    """Processor time of processes together; those that are gone count nothing."""
    total = 0
    for pid in pids:
        try:
            fields = _stat(Path(f"/proc/{pid}"))
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total


def _stat(folder: Path) -> list[str]:
    """The fields of /proc/PID/stat from the third on: state, ppid, pgrp, ... utime at 11, stime at 12."""
    return (folder / "stat").read_text().rpartition(")")[2].split()
