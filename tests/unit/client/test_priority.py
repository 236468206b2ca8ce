"""The priority of a client's requests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tritone import AsyncMusicClient, InferRequest, InvalidInputError, MusicClient
from tritone.constants import PRIORITIES
from tritone.endpoints import make_endpoint
from tritone.transports.grpc_wire import infer_message
from tritone.transports.http_wire import HEADER_LENGTH, first_call


def request(priority: int) -> InferRequest:
    return InferRequest("m", "id", {"x": np.zeros((1, 2), np.float32)}, ("y",), priority=priority)


def test_every_inference_of_a_client_has_its_priority(connect: Any, model: Any, make_noise: Any) -> None:
    connect(priority="batch")("classify", make_noise(20))
    assert {sent.priority for sent in model.inferences()} == {PRIORITIES["batch"]}
    model.requests.clear()
    connect()("classify", make_noise(20))
    assert {sent.priority for sent in model.inferences()} == {0}  # the model's default: interactive


def test_a_copy_with_another_priority_shares_the_connections() -> None:
    with MusicClient("localhost:8001") as music:
        other = music.with_priority("batch")
        assert other._transport is music._transport
        assert (music._prioritized(request(0)).priority, other._prioritized(request(0)).priority) == (0, 2)
        assert other.with_priority("interactive")._prioritized(request(0)).priority == 0


@pytest.mark.parametrize("client", [MusicClient, AsyncMusicClient])
@pytest.mark.parametrize("priority", ["high", "", 2, None, ["batch"]])
def test_other_priorities_are_refused(client: Any, priority: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        client("localhost:8001", priority=priority)
    assert caught.value.argument == "priority"


def test_the_priority_on_the_wire() -> None:
    message = service_pb2.ModelInferRequest.FromString(infer_message(request(2)))
    assert message.parameters["priority"].uint64_param == 2
    assert not service_pb2.ModelInferRequest.FromString(infer_message(request(0))).parameters
    for priority, expected in ((2, {"priority": 2}), (0, None)):
        call = first_call(request(priority), make_endpoint("http://localhost:8000"))
        head = json.loads(bytes(call.body[0])[: int(call.headers[HEADER_LENGTH])])
        assert head.get("parameters") == expected
