"""Nodes of a Ray cluster on this machine, each started by `ray start` with ports of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START_WITHIN_S = 60.0


@dataclass(frozen=True)
class RayHead:
    """A running head.

    Attributes:
        process: `ray start`, the parent of the node's other processes.
        address: `HOST:PORT` for a driver on this machine, and for other nodes.
        client_address: `ray://HOST:PORT`.
        folder: its temporary files.
    """

    process: subprocess.Popen[bytes]
    address: str
    client_address: str
    folder: Path

    def client_logs(self) -> str:
        """Return what the processes of Ray's client wrote to stderr."""
        return "\n".join(
            path.read_text() for path in sorted(self.folder.glob("session_2*/logs/ray_client_server*.err"))
        )


@contextmanager
def ray_head(*, n_cpus: int, environment: Mapping[str, str]) -> Iterator[RayHead]:
    """Start the head of a cluster; it is stopped after the block.

    Args:
        n_cpus: of the head; 0 for a cluster that has none until a node joins.
        environment: additional variables, also of the workers.
    """
    port, client_port, agent_port = _free_ports(3)
    # Not below the folder of the test: the path of a socket has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        own = ["--head", "--port", str(port), "--ray-client-server-port", str(client_port), "--temp-dir", folder]
        own += ["--runtime-env-agent-port", str(agent_port), "--include-dashboard=false", "--disable-usage-stats"]
        log = Path(folder) / "start.log"
        # Otherwise gRPC's fork handlers may end the process that serves a Ray client before that process runs.
        variables = {"GRPC_ENABLE_FORK_SUPPORT": "0", **environment}
        with _node(own, n_cpus, variables, log) as process:
            _wait_for("127.0.0.1", client_port, process)
            # Ray replaces 127.0.0.1 by another address of this machine.
            (host,) = re.findall(rf"--address='([^']+):{port}'", log.read_text())
            _wait_for(host, agent_port, process)  # clients are refused before it responds
            yield RayHead(process, f"{host}:{port}", f"ray://127.0.0.1:{client_port}", Path(folder))


@contextmanager
def ray_node(head: RayHead, *, n_cpus: int, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Add a node to a cluster; it is stopped after the block."""
    with tempfile.TemporaryDirectory() as folder:
        own = ["--address", head.address]
        with _node(own, n_cpus, environment, Path(folder) / "start.log") as process:
            yield process


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the processes of a node, as when its computer fails."""
    if process.poll() is None:
        for pid in _tree(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(30)


def _tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        children = []
    return [pid, *(each for child in children for each in _tree(int(child)))]


@contextmanager
def _node(
    options: list[str], n_cpus: int, environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
    command += ["--num-cpus", str(n_cpus), "--node-ip-address", "127.0.0.1", "--object-store-memory", str(100 * 2**20)]
    command += ["--min-worker-port", "0", "--max-worker-port", "0"]  # other clusters of this machine use the default
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=os.environ | dict(environment), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        ends_s = time.monotonic() + START_WITHIN_S
        while "Ray runtime started" not in (text := log.read_text()):
            assert process.poll() is None, text[-3000:]
            assert time.monotonic() < ends_s, text[-3000:]
            time.sleep(0.1)
        yield process
    finally:
        kill(process)


def _wait_for(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    ends_s = time.monotonic() + START_WITHIN_S
    while True:
        try:
            with socket.create_connection((host, port), timeout=1):
                return
        except OSError:
            assert process.poll() is None, "the head has ended"
            assert time.monotonic() < ends_s, f"{host}:{port} does not respond"
            time.sleep(0.1)


def _free_ports(n: int) -> list[int]:
    with ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(n)]
