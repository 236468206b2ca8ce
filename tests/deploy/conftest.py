"""A balancer and two replicas, each of them real, on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.deploy.name_server import NameServer
from tests.server import composer_stand_in
from tests.server.conftest import make_repository

from tritone_serving import ServerOptions, TritonServer

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

    def servers_up(self, backend: str) -> int:
        """How many replicas it sends requests to."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['STATS']}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        wanted = f'haproxy_server_status{{proxy="{backend}",server="replica'
        return sum(line.startswith(wanted) and 'state="UP"} 1' in line for line in lines)


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


@pytest.fixture(scope="session")
def haproxy() -> str:
    found = shutil.which("haproxy", path=BINARIES)
    if found is None:
        pytest.skip("no haproxy on this machine (Debian and Ubuntu: apt install haproxy)")
    return found


@pytest.fixture(scope="module", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@dataclass
class Replicas:
    """Two servers on the same ports of two addresses, and the name that stands for them."""

    servers: dict[str, TritonServer]
    names: NameServer
    start: Callable[[str], TritonServer]
    ports: tuple[int, int, int]


@pytest.fixture(scope="module")
def replicas(haproxy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    repository = composer_stand_in.make_repository(make_repository(tmp_path_factory.mktemp("repository")))
    http, grpc, metrics = free_ports(3, "0.0.0.0")  # noqa: S104  - looked for on every address, bound on none

    def start(host: str) -> TritonServer:
        return TritonServer.start(
            ServerOptions(
                repository=repository, host=host, http_port=http, grpc_port=grpc, metrics_port=metrics,
                response_cache_bytes=0,
            )
        )  # fmt: skip

    names = NameServer(list(HOSTS))
    servers = {host: start(host) for host in HOSTS}
    try:
        yield Replicas(servers, names, start, (http, grpc, metrics))
    finally:
        for server in servers.values():
            server.stop()
        names.close()


@pytest.fixture(scope="module")
def start_balancer(
    haproxy: str, replicas: Replicas, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Balancer]]:
    """Starts balancers before the replicas, each with what its test sets."""
    started: list[Balancer] = []

    def start(**given: str) -> Balancer:
        names = ("HTTP", "GRPC", "STATS", "HTTPS", "GRPCS")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        environment = {
            **os.environ,
            "PATH": BINARIES,
            "TRITONE_LISTEN": "127.0.0.1",
            "TRITONE_REPLICAS": "replicas.tritone.test",
            "TRITONE_DNS": replicas.names.place,
            "TRITONE_REPLICA_HTTP_PORT": str(replicas.ports[0]),
            "TRITONE_REPLICA_GRPC_PORT": str(replicas.ports[1]),
            **{f"TRITONE_{name}_PORT": str(port) for name, port in ports.items()},
            **given,
        }
        log = tmp_path_factory.mktemp("balancer") / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [ROOT / "docker/run-balancer.sh", "run"], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
        balancer = Balancer(process, ports, log)
        started.append(balancer)
        ready = wait_until(
            lambda: balancer.servers_up("http_replicas") == balancer.servers_up("grpc_replicas") == len(HOSTS), 10
        )
        assert ready, log.read_text()
        return balancer

    yield start
    for balancer in started:
        balancer.process.terminate()
        balancer.process.wait(10)


@pytest.fixture(scope="module")
def balancer(start_balancer: Callable[..., Balancer]) -> Balancer:
    return start_balancer(TRITONE_MAX_REQUESTS_10S="1000000")  # all the load comes from one address
