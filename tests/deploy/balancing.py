"""A balancer before replicas, for whoever breaks either: starts HAProxy as the image does, and looks at it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOSTS = ("127.0.0.1", "127.0.0.2")  # Linux answers on all of 127.0.0.0/8
# Debian keeps it in /usr/sbin, which not everybody's PATH has.
BINARIES = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"


@dataclass
class Balancer:
    """A running HAProxy and where it listens."""

    process: subprocess.Popen[bytes]
    ports: dict[str, int]
    log: Path

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.ports['HTTP']}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports['GRPC']}"

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self.ports['REST']}"

    def servers_up(self, backend: str) -> int:
        """How many replicas or gateways it sends requests to."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['STATS']}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        wanted = f'haproxy_server_status{{proxy="{backend}",server="'
        return sum(line.startswith(wanted) and 'state="UP"} 1' in line for line in lines)

    def serves(self) -> bool:
        """Whether it sends requests of both protocols to all replicas."""
        return self.servers_up("http_replicas") == self.servers_up("grpc_replicas") == len(HOSTS)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def haproxy_path() -> str | None:
    """Where HAProxy is; None if it is not on this machine."""
    return shutil.which("haproxy", path=BINARIES)


def start_haproxy(
    names: str,
    replica_ports: tuple[int, int],
    log: Path,
    *,
    ports: dict[str, int] | None = None,
    folder: Path = ROOT / "docker",
    serves: Callable[[Balancer], bool] = Balancer.serves,
    **given: str,
) -> Balancer:
    """Start a balancer and wait until it knows its replicas.

    Args:
        names: the name server's place, for which `replicas.tritone.test` stands for the replicas.
        replica_ports: their HTTP and gRPC ports.
        ports: where to listen, as `Balancer.ports`; free ones by default.
        folder: where run-balancer.sh and its configuration are.
        serves: tells when the balancer has started; by default, once it knows all replicas.
        given: settings beside these, as `TRITONE_MAX_BODY_BYTES`.
    """
    if ports is None:
        wanted = ("HTTP", "GRPC", "STATS", "HTTPS", "GRPCS", "REST", "REST_TLS")
        ports = dict(zip(wanted, free_ports(len(wanted)), strict=True))
    environment = {
        **os.environ,
        "PATH": BINARIES,
        "TRITONE_LISTEN": "127.0.0.1",
        "TRITONE_REPLICAS": "replicas.tritone.test",
        "TRITONE_DNS": names,
        "TRITONE_REPLICA_HTTP_PORT": str(replica_ports[0]),
        "TRITONE_REPLICA_GRPC_PORT": str(replica_ports[1]),
        **{f"TRITONE_{name}_PORT": str(port) for name, port in ports.items()},
        **given,
    }
    with log.open("ab") as out:
        process = subprocess.Popen(
            [folder / "run-balancer.sh", "run"], env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    balancer = Balancer(process, ports, log)
    if not wait_until(lambda: serves(balancer), 10):
        balancer.stop()
        raise RuntimeError(f"the balancer does not serve: {log.read_text()}")
    return balancer


def free_ports(n: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that are free on every address that the tests use."""
    with ExitStack() as held:
        return [held.enter_context(socket.create_server((host, 0))).getsockname()[1] for _ in range(n)]


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if condition():
                return True
        time.sleep(0.05)
    return False
