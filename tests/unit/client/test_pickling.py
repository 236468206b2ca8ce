"""Tests of pickling and copying clients: copies connect by themselves, and pickles contain no secrets."""

from __future__ import annotations

import concurrent.futures
import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tritone import AsyncMusicClient, ConnectionFailedError, InvalidInputError, MusicClient, ProcessBoundError
from tritone.operations.stream import AsyncPieceStream, PieceStream

BOTH = pytest.mark.parametrize("kind", [MusicClient, AsyncMusicClient])


@BOTH
@pytest.mark.parametrize(
    "again",
    [lambda client: pickle.loads(pickle.dumps(client)), copy.copy, copy.deepcopy],  # noqa: S301
    ids=["pickle", "copy", "deepcopy"],
)
@pytest.mark.parametrize("url", ["localhost:9", "http://localhost:9", ("a:8001", "b:8001"), "a:8001,b:8001"])
def test_a_copy_has_the_same_options_and_its_own_state(kind: Any, again: Callable[[Any], Any], url: Any) -> None:
    client = kind(url, timeout_s=3, retries=0, genre_model="mine")
    other = again(client)
    assert type(other) is kind
    assert repr(other) == repr(client)
    assert (other._timeout_s, other._retries, other._genre_model) == (3.0, 0, "mine")
    for name in ("_transport", "_models", "_credentials"):
        assert getattr(other, name) is not getattr(client, name)


def test_a_copy_works_after_the_original_is_closed() -> None:
    client = MusicClient("http://localhost:9", timeout_s=0.2, retries=0)
    other = copy.copy(client)
    client.close()
    with pytest.raises(ConnectionFailedError) as failed:  # it is not closed: it tried to connect
        other.server_ready()
    assert failed.value.endpoint == "http://localhost:9"
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(ProcessBoundError) as caught:
            act(client)
        assert caught.value.reason == "closed"


@BOTH
@pytest.mark.parametrize(
    "secret",
    [{"api_key": "s3cr3t"}, {"headers": {"x-key": "s3cr3t"}}, {"service_key": "s3cr3t"}, {"user_token": "s3cr3t"}],
    ids=lambda secret: next(iter(secret)),
)
def test_secrets_are_copied_in_a_process_and_never_pickled(kind: Any, secret: dict[str, Any]) -> None:
    client = kind("http://localhost:9", **secret)
    (name,) = secret
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        sink = io.BytesIO()
        with pytest.raises(ProcessBoundError) as caught:
            pickle.dump(client, sink, protocol)
        assert caught.value.reason == "secrets"
        assert f"got {name};" in str(caught.value)
        assert "s3cr3t" not in str(caught.value)
        assert b"s3cr3t" not in sink.getvalue()
    for other in (copy.copy(client), copy.deepcopy(client)):
        assert other._arguments[name] == secret[name]


def test_an_empty_service_key_is_not_a_secret() -> None:
    other = pickle.loads(pickle.dumps(MusicClient("http://localhost:9", service_key="")))  # noqa: S301
    assert other._arguments["service_key"] == ""


@dataclass
class Own:
    """A transport of the caller's."""

    name: str

    def close(self) -> None: ...


def test_a_transport_of_the_callers_is_shared_by_a_copy_and_copied_otherwise() -> None:
    own: Any = Own("mine")
    client = MusicClient(transport=own)
    assert copy.copy(client)._transport is own
    for other in (copy.deepcopy(client), pickle.loads(pickle.dumps(client))):  # noqa: S301
        assert other._transport == own
        assert other._transport is not own


def test_a_missing_certificate_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "client.pem"
    file.write_text("")
    client = MusicClient("grpcs://localhost:9", client_cert_file=file, client_key_file=file)
    pickled = pickle.dumps(client)
    file.unlink()
    with pytest.raises(InvalidInputError) as caught:
        pickle.loads(pickled)  # noqa: S301
    assert (caught.value.argument, caught.value.reason) == ("client_cert_file", "missing")


def ready(client: MusicClient) -> tuple[bool, int]:
    return client.server_ready(timeout_s=30), multiprocessing.current_process().pid or 0


def test_a_spawned_process_connects_by_itself(tmp_path: Path) -> None:
    from tests.unit.client.test_forks import serving

    with serving("grpc") as url, MusicClient(url) as client:
        assert client.server_ready()
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            answered, pid = pool.submit(ready, client).result(timeout=120)
        assert answered
        assert pid != multiprocessing.current_process().pid
        with (
            MusicClient(url, api_key="k") as keyed,
            concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool,
            pytest.raises(ProcessBoundError) as caught,
        ):
            pool.submit(ready, keyed).result(timeout=120)
        assert caught.value.reason == "secrets"


def test_a_stream_is_neither_pickled_nor_copied() -> None:
    growing: Any = None
    for stream in (PieceStream(growing, iter(())), AsyncPieceStream(1, growing)):
        for act in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(ProcessBoundError) as caught:
                act(stream)
            assert caught.value.reason == "stream"
