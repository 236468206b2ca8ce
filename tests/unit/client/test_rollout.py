"""Tests of replicas with two versions at once, as several servers or behind one address: no call is lost."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.unit.client.conftest import FakeModel, noise
from tests.unit.client.writers import FakeWriters
from tritonclient.grpc import service_pb2

from tritone import (
    AsyncMusicClient,
    ConnectionFailedError,
    InferRequest,
    ModelNotFoundError,
    ModelRequest,
    MusicClient,
    Request,
    RequestRejectedError,
    ServerBusyError,
    StreamRequest,
    model_cache,
)
from tritone.endpoints import make_endpoints
from tritone.exceptions import VersionChangedError
from tritone.transports import grpc_wire
from tritone.transports.balanced import BalancedTransport

ENDPOINTS = make_endpoints(["a:1", "b:1"])
GONE = ConnectionFailedError("no connection to grpc://a:1: refused; is it running?")


class Address:
    """A balancer that sends each request to any of its replicas."""

    _random = random.Random(5)  # noqa: S311  - spreads requests, guards nothing

    def __init__(self, *replicas: Any) -> None:
        self._replicas = replicas

    def handle(self, request: Request, *, timeout_s: float) -> Any:
        return self._random.choice(self._replicas).handle(request, timeout_s=timeout_s)

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Iterator[Any]:
        return self._random.choice(self._replicas).stream(request, timeout_s=timeout_s)

    def close(self) -> None:
        pass


def old_and_new() -> tuple[FakeModel, FakeModel]:
    """Versions 3 and 4, whose labels differ."""
    return FakeModel(), FakeModel(version="4", labels=("jazz", "folk"))


def either(*replicas: Any) -> list[Any]:
    """The transports of a client with both endpoints, and of one with a balancer's address."""
    return [BalancedTransport(ENDPOINTS, replicas), Address(*replicas)]


def check(result: Any) -> None:
    """Hold a result against the version that it names."""
    expected = {"3": {"classical", "synth:pop", "rock"}, "4": {"jazz", "folk"}}
    assert set(result.probabilities) == expected[result.model_version]


@pytest.mark.parametrize("place", [0, 1], ids=["endpoints", "address"])
def test_no_call_is_lost_while_versions_differ(place: int) -> None:
    for n in range(5):
        with MusicClient(transport=either(*old_and_new())[place], retries=0, timeout_s=10) as music:
            for seconds in (3, 30, 3):
                check(music.classify(noise(seconds, seed=n)))
            assert music.embed(noise(3)).shape == (256,)


@pytest.mark.parametrize("place", [0, 1], ids=["endpoints", "address"])
def test_no_call_of_asyncio_is_lost(place: int, as_async: Any) -> None:
    async def run() -> None:
        transport = as_async(either(*old_and_new())[place])
        async with AsyncMusicClient(transport=transport, retries=0, timeout_s=10) as music:
            for result in await asyncio.gather(*(music.classify(noise(9, seed=n)) for n in range(20))):
                check(result)

    asyncio.run(run())


@pytest.mark.parametrize("place", [0, 1], ids=["endpoints", "address"])
def test_no_piece_and_no_stream_is_lost(place: int) -> None:
    old, new = FakeWriters(), FakeWriters(version="4", parameters={"styles": '["any", "folk", "bach"]'})
    with MusicClient(transport=either(old, new)[place], retries=0, timeout_s=10) as music:
        for seed in range(40):
            assert music.compose(bars=1, style="folk", seed=seed).model_version in ("3", "4")
            with music.stream_compose(bars=2, style="folk", seed=seed) as stream:
                assert sum(len(chunk.frames) for chunk in stream) == 32
            music._models.forget("composer", "music_transformer")  # any version may be looked up next
    asked = [each for model in (old, new) for name in ("composer", "music_transformer") for each in model.asked(name)]
    assert {(each.version, int(each.inputs["style"][0, 0])) for each in asked} == {("3", 2), ("4", 1)}


def test_a_rollout_over_replicas_under_load() -> None:
    replicas = FakeModel(), FakeModel()
    stop = threading.Event()
    versions: list[str] = []
    failures: list[BaseException] = []

    def ask(music: MusicClient) -> None:
        while not stop.is_set():
            try:
                versions.append(music.classify(noise(6)).model_version)
            except Exception as error:
                failures.append(error)

    clients = [MusicClient(transport=transport, retries=0, timeout_s=10) for transport in either(*replicas)]
    threads = [threading.Thread(target=ask, args=(music,)) for music in clients * 2]
    for thread in threads:
        thread.start()
    for replica in replicas:
        time.sleep(0.2)
        replica.version = "4"
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert failures == []
    assert set(versions) == {"3", "4"}


# --- several endpoints -------------------------------------------------------------------------


def ask_for(version: str) -> InferRequest:
    inputs = {"audio": np.ones((1, 66_150), np.float32)}
    return InferRequest("genre_cnn", "id-1", inputs, ("embedding",), version=version)


def test_another_server_has_the_version() -> None:
    old, new = old_and_new()
    transport = BalancedTransport(ENDPOINTS, (new, old))
    for _ in range(4):
        assert transport.handle(ask_for("3"), timeout_s=5).version == "3"
    with pytest.raises(VersionChangedError, match="version 9") as caught:
        transport.handle(ask_for("9"), timeout_s=5)
    assert (caught.value.model, caught.value.request_id) == ("genre_cnn", "id-1")


@pytest.mark.parametrize("error", [GONE, ServerBusyError("full"), ModelNotFoundError("none")])
def test_a_version_error_takes_precedence_over_failures_of_other_servers(error: Exception) -> None:
    def fail(request: Any) -> None:
        raise error

    old, new = old_and_new()
    old.before = fail
    transport = BalancedTransport(ENDPOINTS, (old, new))
    for _ in range(3):
        with pytest.raises(VersionChangedError):
            transport.handle(ask_for("3"), timeout_s=5)
    # One that rests is not waited for: who looks up what there is will be answered by the other.
    assert len(old.requests) == (1 if error is GONE else 3)


def test_the_last_server_with_the_old_version_dies() -> None:
    def fail(request: Any) -> None:
        raise GONE

    old, new = old_and_new()
    with MusicClient(transport=BalancedTransport(ENDPOINTS, (old, new)), retries=0) as music:
        assert music.classify(noise(3)).model_version == "3"
        old.before = fail
        began_s = time.monotonic()
        check(music.classify(noise(3)))
        assert time.monotonic() - began_s < 5


def test_the_version_in_messages_of_grpc() -> None:
    sent = service_pb2.ModelInferRequest.FromString(grpc_wire.infer_message(ask_for("12")))
    assert (sent.model_version, len(sent.raw_input_contents[0])) == ("12", 4 * 66_150)
    # Behind a balancer the second question may go elsewhere: to a server that has the same version, or refuses.
    metadata = service_pb2.ModelMetadataResponse(name="m", versions=["9", "10"])
    assert grpc_wire.config_request(ModelRequest("m"), metadata).version == "10"


# --- what is not a roll-out --------------------------------------------------------------------


@pytest.mark.parametrize("transports", [either, lambda *models: [models[0]]], ids=["two", "one"])
def test_a_removed_model_is_reported_at_once(transports: Callable[..., list[Any]]) -> None:
    def forget(request: Any) -> None:
        raise ModelNotFoundError("Request for unknown model: 'genre_cnn' has no available versions")

    models = old_and_new()
    for transport in transports(*models):
        with MusicClient(transport=transport) as music:
            check(music.classify(noise(3)))
            for model in models:
                model.before = forget
                model.requests.clear()
            began_s = time.monotonic()
            for name in ("genre_cnn", "genre_rnn"):
                with pytest.raises(ModelNotFoundError):
                    music.classify(noise(3), model=name)
            assert time.monotonic() - began_s < 2
            assert sum(len(model.requests) for model in models) <= 4
        for model in models:
            model.before = lambda request: None


def test_a_version_that_is_gone_costs_little(model: FakeModel) -> None:
    with MusicClient(transport=model) as music:
        music.classify(noise(3))
        model.requests.clear()
        model.version = "4"
        began_s = time.monotonic()
        assert music.classify(noise(3)).model_version == "4"
        assert time.monotonic() - began_s < 2
    refused = [request for request in model.inferences() if request.version == "3"]
    assert len(refused) == 4


def test_other_refusals_are_not_repeated(model: FakeModel) -> None:
    def refuse(request: Any) -> None:
        if isinstance(request, InferRequest):
            raise RequestRejectedError("no")

    model.before = refuse
    with MusicClient(transport=model) as music, pytest.raises(RequestRejectedError):
        music.classify(noise(3))
    assert len(model.inferences()) == 1


def test_metadata_is_fetched_again_after_a_while(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with MusicClient(transport=model) as music:
        music.classify(noise(3))
        n_before = len(model.requests)
        music.classify(noise(3))
        assert len(model.requests) == n_before + 1
        monkeypatch.setattr(model_cache, "CACHED_FOR_S", 0.0)
        music.classify(noise(3))  # the same version: its labels need not be asked again
        assert [type(request) for request in model.requests[n_before + 1 :]] == [ModelRequest, InferRequest]
        model.version, model.labels = "4", ("jazz", "folk")
        check(music.classify(noise(3)))
