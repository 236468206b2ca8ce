"""A gateway in front of fake models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tritone import AsyncMusicClient
from tritone.testing import (
    AsyncMockTransport,
    FakeComposer,
    FakeGenreModel,
    FakeInspirer,
    FakeRecommender,
    FakeServer,
)
from tritone_gateway import GatewaySettings, create_app
from tritone_gateway.security.keys import KeyStore

Start = Callable[..., TestClient]
LOCAL = "http://localhost"
TRACKS = ("reel-1", "reel-2", "jig-1")
FAKES = FakeComposer(), FakeGenreModel(), FakeRecommender(TRACKS)


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.json")


@pytest.fixture
def start(keys: KeyStore) -> Iterator[Start]:
    """Return a function that starts a gateway with settings, in front of the fake models or of another handler."""
    with ExitStack() as stack:

        def begin(handler: object = None, **settings: object) -> TestClient:
            fakes = FakeServer(*FAKES, FakeInspirer(*FAKES))
            music = AsyncMusicClient(retries=0, transport=AsyncMockTransport(handler or fakes))
            app = create_app(GatewaySettings(keys_file=keys.path, **settings), music=music)
            return stack.enter_context(TestClient(app, base_url=LOCAL, raise_server_exceptions=False))

        yield begin


@pytest.fixture
def gateway(start: Start) -> TestClient:
    return start()
