"""Tests that both transports connect directly, whatever the environment variables for proxies say."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from tests.unit.client.test_forks import serving

from tritone import AsyncMusicClient, ConnectionFailedError, MusicClient

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


class Proxy:
    """Accepts connections and keeps what comes first on each; answers nothing."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listening.accept()[0]
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                self.said.append(connection.recv(4096))

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    made = Proxy()
    for name in VARIABLES:
        monkeypatch.setenv(name, made.url)
        monkeypatch.setenv(name.upper(), made.url)
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.close()


def test_the_dummy_proxy_records_what_reaches_it(proxy: Proxy) -> None:
    """Otherwise the tests below would pass whatever a client does."""
    import urllib.request

    with pytest.raises(OSError):  # noqa: PT011 - it hangs up
        urllib.request.build_opener().open("http://10.255.255.1:9/", timeout=10)
    assert proxy.said[0].startswith(b"GET http://10.255.255.1:9/")


def local_address() -> str:
    """An address of this machine that is not loopback, which proxies spare; loopback where there is no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_is_reached_directly(proxy: Proxy, protocol: str) -> None:
    host = local_address()
    with serving(protocol, host=host) as url:
        with MusicClient(url) as music:
            assert music.server_ready(timeout_s=20)

        async def main() -> bool:
            async with AsyncMusicClient(url) as music:
                return await music.server_ready(timeout_s=20)

        assert asyncio.run(main())
    assert not proxy.said


@pytest.mark.parametrize("scheme", ["grpc", "grpcs", "http", "https"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_proxy_is_not_used_for_an_unreachable_server(proxy: Proxy, scheme: str, kind: str) -> None:
    host = local_address()
    with socket.socket() as probe:
        probe.bind((host, 0))  # not listening
        url = f"{scheme}://{host}:{probe.getsockname()[1]}"

        async def main() -> None:
            async with AsyncMusicClient(url, retries=0) as music:
                await music.server_ready(timeout_s=20)

        act = MusicClient(url, retries=0).server_ready if kind == "sync" else lambda: asyncio.run(main())
        with pytest.raises(ConnectionFailedError) as caught:
            act()
        assert (caught.value.reason, caught.value.endpoint) == ("unreachable", url)
    assert not proxy.said
