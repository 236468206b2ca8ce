"""Tests of when and where a client sends credentials."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.client.recommenders import FakeRecommender

from tritone import AsyncMusicClient, InferRequest, InvalidInputError, MusicClient
from tritone.credentials import Credentials, default_key_file, own_key
from tritone.endpoints import make_endpoint, make_endpoints
from tritone.transports import grpc_wire, http_wire

KEY = "k" * 43
TOKEN = "aaaa.bbbb.cccc"  # noqa: S105
KEY_HEADER, TOKEN_HEADER = "tritone-service-key", "tritone-user-token"


@pytest.fixture(autouse=True)
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user's own key."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = default_key_file()
    path.parent.mkdir(parents=True)
    path.write_text(KEY)
    path.chmod(0o600)
    return path


@pytest.fixture
def port() -> Iterator[int]:
    """Where a server of this user listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def credentials(*urls: str, **given: Any) -> Credentials:
    options = {"service_key": None, "user_token": None, "finds_own_key": True, **given}
    return Credentials(endpoints=make_endpoints(list(urls)), **options)


# --- the operator's own key ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
@pytest.mark.parametrize("protocol", ["grpc", "http", "grpcs", "https"])
def test_the_own_key_is_sent_to_the_own_server(host: str, protocol: str, port: int) -> None:
    assert credentials(f"{protocol}://{host}:{port}").headers() == {KEY_HEADER: KEY}


@pytest.mark.parametrize(
    "host", ["example.org", "10.0.0.1", "192.0.2.1", "localhost.example.org", "127.0.0.1.example.org", "[::2]", "[::]"]
)
def test_the_own_key_is_sent_to_no_other_host(host: str, port: int) -> None:
    assert credentials(f"{host}:{port}").headers() == {}
    assert credentials(f"localhost:{port}", f"{host}:{port}").headers() == {}


def test_the_own_key_is_not_sent_to_servers_of_other_users(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"ours": {os.getuid()}, "root's": {0}, "another's": {4321}, "ours and another's": {os.getuid(), 4321}}
    for whose, found in owners.items():
        monkeypatch.setattr("tritone.credentials._owners", lambda ports, found=found: {port: found})
        assert bool(credentials(f"localhost:{port}").headers()) is ("another" not in whose)
    monkeypatch.setattr("tritone.credentials._owners", lambda ports: {})
    assert credentials(f"localhost:{port}").headers() == {}


def test_a_port_where_nobody_listens_gets_no_key(port: int) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert own_key(default_key_file(), {closed.getsockname()[1]}) is None
    assert own_key(default_key_file(), {port}) == KEY


def test_a_server_that_starts_later_gets_the_own_key(key_file: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        found = credentials(f"localhost:{listening.getsockname()[1]}")
        assert found.headers() == {}
        listening.listen()
        assert found.headers() == {KEY_HEADER: KEY}


@pytest.mark.parametrize("wrong", ["open", "link", "missing", "empty", "binary", "folder"])
def test_a_file_that_is_not_this_users_alone_is_not_sent(key_file: Path, port: int, wrong: str) -> None:
    if wrong == "open":
        key_file.chmod(0o640)
    else:
        key_file.rename(key_file.with_name("elsewhere"))
    if wrong == "link":
        key_file.symlink_to(key_file.with_name("elsewhere"))
    elif wrong in ("empty", "binary"):
        key_file.write_bytes(b"" if wrong == "empty" else b"\xff\xfe\x00" * 20)
        key_file.chmod(0o600)
    elif wrong == "folder":
        key_file.mkdir(mode=0o700)
    assert credentials(f"localhost:{port}").headers() == {}


def test_a_client_with_a_transport_of_its_own_finds_no_key(port: int) -> None:
    model = FakeRecommender()
    with MusicClient(f"localhost:{port}", transport=model) as music:
        music.recommend("42")
    assert model.requests[0].headers == {}


# --- what is sent ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_credentials_go_with_requests_about_users_alone(asynchronous: bool, as_async: Any) -> None:
    def calls(**given: Any) -> list[Any]:
        model = FakeRecommender()
        asked: list[dict[str, Any]] = [
            {"user_id": "42"},
            {"friends": ["42"], "history": ["track-1"]},
            {"history": ["track-1"]},
            {},
            {"user_id": "42", "user_token": "own.own.own"},
        ]
        if asynchronous:

            async def run() -> None:
                async with AsyncMusicClient(transport=as_async(model), **given) as music:
                    for each in asked:
                        await music.recommend(**each)
                    await music.similar("track-1")

            asyncio.run(run())
        else:
            with MusicClient(transport=model, **given) as music:
                for each in asked:
                    music.recommend(**each)
                music.similar("track-1")
        return [request.headers for request in model.requests]

    own = {TOKEN_HEADER: "own.own.own"}
    assert calls(service_key=KEY) == [{KEY_HEADER: KEY}, {KEY_HEADER: KEY}, {}, {}, own, {}]
    assert calls(user_token=TOKEN) == [{TOKEN_HEADER: TOKEN}, {TOKEN_HEADER: TOKEN}, {}, {}, own, {}]
    assert calls(service_key="") == calls() == [{}, {}, {}, {}, own, {}]


def test_an_empty_key_sends_none(port: int) -> None:
    assert credentials(f"localhost:{port}", service_key="").headers() == {}
    assert credentials(f"localhost:{port}", user_token=TOKEN).headers() == {TOKEN_HEADER: TOKEN}


def test_both_protocols_send_credentials_in_addition_to_headers() -> None:
    request = InferRequest("recommender", "1", {}, (), headers={KEY_HEADER: KEY})
    endpoint = make_endpoint("http://h", api_key="abc", headers={"x-a": "1", "Tritone-Service-Key": "old"})
    assert http_wire.first_call(request, endpoint).headers[KEY_HEADER] == KEY
    metadata = grpc_wire.metadata_for(request, endpoint)
    assert [value for name, value in metadata if name == KEY_HEADER] == [KEY]
    assert dict(metadata)["authorization"] == "Bearer abc"
    plain = InferRequest("genre_cnn", "1", {}, ())
    assert KEY not in dict(grpc_wire.metadata_for(plain, endpoint)).values()


@pytest.mark.parametrize("name", ["service_key", "user_token"])
@pytest.mark.parametrize("value", ["two words", "line\nbreak", "é", "x" * 5_000, 42, b"bytes", np.array([1, 2])])
def test_a_secret_that_cannot_be_sent_is_refused_without_being_shown(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        MusicClient(**{name: value})
    assert (caught.value.argument, caught.value.reason) == (name, None)
    assert str(value)[:9] not in str(caught.value)
    if name == "user_token":
        with MusicClient(transport=FakeRecommender()) as music, pytest.raises(InvalidInputError) as caught:
            music.recommend("42", user_token=value)
        assert caught.value.argument == name
        assert str(value)[:9] not in str(caught.value)


def test_a_key_and_a_token_together_are_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        MusicClient(service_key=KEY, user_token=TOKEN)
    assert (caught.value.argument, caught.value.reason) == ("service_key", "conflict")


# --- what must not show ----------------------------------------------------------------------------------------


def test_credentials_are_neither_shown_nor_pickled() -> None:
    with MusicClient(service_key=KEY) as music:
        shown = repr(music) + repr(music._credentials)
        assert KEY not in shown
        for held in (music, music._credentials):
            with pytest.raises(TypeError):
                pickle.dumps(held)
    request = InferRequest("recommender", "1", {}, (), headers={KEY_HEADER: KEY})
    assert KEY not in repr(request)


def test_a_redirect_is_not_followed(port: int) -> None:
    """The key would go to wherever another server says."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    seen: list[str | None] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers.get(KEY_HEADER))
            self.send_response(307)
            self.send_header("location", f"http://127.0.0.1:{self.server.server_address[1]}/stolen{self.path}")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"

        async def ask() -> None:
            async with AsyncMusicClient(url, service_key=KEY, retries=0, timeout_s=5) as music:
                await music.recommend("42")

        with MusicClient(url, service_key=KEY, retries=0, timeout_s=5) as music, contextlib.suppress(Exception):
            music.recommend("42")
        with contextlib.suppress(Exception):
            asyncio.run(ask())
        server.shutdown()
    assert seen == [KEY, KEY]
