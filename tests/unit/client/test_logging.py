"""Retries and fail-over in the log of the package, and silence without a handler."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import subprocess
import sys
from typing import Any

import pytest
from tests.unit.client.test_pool import GONE, Fake

import tritone
from tritone import AsyncMusicClient, ConnectionFailedError, MusicClient, ReadyRequest
from tritone.endpoints import make_endpoints
from tritone.transports.balanced import AsyncBalancedTransport, BalancedTransport

SECRETS = {"api_key": "s3cr3t-key", "headers": {"x-other": "s3cr3t-header"}, "service_key": "s3cr3t-service"}


def test_the_version_is_the_distributions() -> None:
    assert tritone.__version__ == importlib.metadata.version("tritone")


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:1", "http://127.0.0.1:1"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_each_retry_is_a_warning(url: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tritone")

    async def main() -> None:
        async with AsyncMusicClient(url, retries=2, **SECRETS) as music:
            await music.server_ready()

    act = MusicClient(url, retries=2, **SECRETS).server_ready if kind == "sync" else lambda: asyncio.run(main())
    with pytest.raises(ConnectionFailedError):
        act()
    logged = [record for record in caplog.records if record.name == "tritone"]
    assert [record.levelname for record in logged] == ["WARNING", "WARNING"]
    for attempt, record in enumerate(logged, 1):
        said = record.getMessage()
        assert f"ReadyRequest to {url} failed (attempt {attempt} of 3): no connection to {url}" in said
        assert "refused" in said
        assert "retrying in 0." in said
    assert "s3cr3t" not in caplog.text


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_fail_over_names_both_servers_state(kind: str, caplog: pytest.LogCaptureFixture, as_async: Any) -> None:
    caplog.set_level(logging.DEBUG, "tritone")
    fakes = [Fake(), Fake()]
    fakes[0].fails = GONE
    endpoints = make_endpoints(["a:1", "b:1"], api_key="s3cr3t")
    if kind == "sync":
        pool = BalancedTransport(endpoints, fakes)  # type: ignore[arg-type]
        pool.handle(ReadyRequest(), timeout_s=5)
    else:
        transport = AsyncBalancedTransport(endpoints, [as_async(fake) for fake in fakes])
        asyncio.run(transport.handle(ReadyRequest(), timeout_s=5))
    said = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    assert said[0].startswith("WARNING grpc://a:1 failed (server 1 of 2): no connection to grpc://a:1: refused")
    assert said[0].endswith("trying the next server, if one is left")
    assert said[1].startswith("DEBUG grpc://a:1 is not used for 0.")
    assert "s3cr3t" not in caplog.text


def test_nothing_is_printed_without_a_handler() -> None:
    script = (
        "from tritone import MusicClient, ConnectionFailedError\n"
        "try:\n    MusicClient('http://127.0.0.1:1', retries=1).server_ready()\n"
        "except ConnectionFailedError:\n    print('raised')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("raised\n", "")
