"""Starting torchrun with this checkout's packages."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of processes on CPUs that wait a minute at most for each other."""
    paths = [str(ROOT / each) for each in ("cli", "client", "export", "serving", "training", "gateway")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TRITONE_PROCESSES_TIMEOUT_S": "60",
        **more,
    }


@contextmanager
def torchrun(
    n_processes: int, *command: str, options: tuple[str, ...] = ("--standalone",), cwd: Path | None = None, **more: str
) -> Iterator[subprocess.Popen[str]]:
    """Start a command in so many processes, which end with the block.

    Args:
        n_processes: number of processes.
        command: a script, or `-m MODULE`, with its arguments.
        options: of torchrun; by default those for one host.
        cwd: folder in which they run.
        more: environment variables.
    """
    launcher_command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n_processes}"]
    launcher = subprocess.Popen(
        [*launcher_command, *options, *command],
        env=environment(**more),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with launcher:
        try:
            yield launcher
        finally:
            if launcher.poll() is None:
                for each in psutil.Process(launcher.pid).children(recursive=True):
                    each.kill()
                launcher.kill()


def run_on_two_hosts(
    first: Sequence[str], second: Sequence[str], n_processes: tuple[int, int] = (1, 1)
) -> list[tuple[int, str]]:
    """Run two launchers, as on two hosts; return exit status and output of each.

    Args:
        first: command of the launcher with the first process.
        second: command of the other one.
        n_processes: processes of each launcher.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"--rdzv-endpoint=127.0.0.1:{free.getsockname()[1]}"
    with ExitStack() as stack:
        launchers = [
            stack.enter_context(torchrun(n, *command, options=("--nnodes=2", f"--node-rank={node}", endpoint)))
            for node, (command, n) in enumerate(zip((first, second), n_processes, strict=True))
        ]
        outputs = ["".join(launcher.communicate(timeout=120)) for launcher in launchers]
    return [(launcher.returncode, output) for launcher, output in zip(launchers, outputs, strict=True)]
