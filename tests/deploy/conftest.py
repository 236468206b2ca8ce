"""A balancer and two replicas, each of them real, on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.deploy.balancing import HOSTS, Balancer, free_ports, haproxy_path, start_haproxy
from tests.deploy.name_server import NameServer
from tests.integration import composer_stand_in
from tests.integration.conftest import make_repository

from tritone_serving import ServerOptions, TritonServer


@pytest.fixture(scope="session")
def haproxy() -> str:
    found = haproxy_path()
    if found is None:
        pytest.skip("no haproxy on this machine (Debian and Ubuntu: apt install haproxy)")
    return found


@dataclass
class Replicas:
    """Two servers on the same ports of two addresses, and the name that stands for them."""

    servers: dict[str, TritonServer]
    names: NameServer
    start: Callable[[str], TritonServer]
    ports: tuple[int, int, int]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all replicas serve."""
    return composer_stand_in.make_repository(make_repository(tmp_path_factory.mktemp("repository")))


@pytest.fixture(scope="module")
def replicas(haproxy: str, repository: Path) -> Iterator[Replicas]:
    http, grpc, metrics = free_ports(3, "0.0.0.0")  # noqa: S104  - looked for on every address, bound on none

    def start(host: str) -> TritonServer:
        return TritonServer.start(
            ServerOptions(
                repository=repository, host=host, http_port=http, grpc_port=grpc, metrics_port=metrics,
                response_cache_bytes=0, stop_timeout_s=2,
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
        log = tmp_path_factory.mktemp("balancer") / "log"
        started.append(start_haproxy(replicas.names.place, replicas.ports[:2], log, **given))
        return started[-1]

    yield start
    for balancer in started:
        balancer.stop()


@pytest.fixture(scope="module")
def balancer(start_balancer: Callable[..., Balancer]) -> Balancer:
    return start_balancer(TRITONE_MAX_REQUESTS_10S="1000000")  # all the load comes from one address
