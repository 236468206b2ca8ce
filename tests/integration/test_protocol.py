"""What the server says to requests that are not right, on the raw KServe v2 protocol; and who may administer."""

from __future__ import annotations

import json
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from tritone_serving import ADMIN_HEADER, GRPC_ADMIN_HEADER, TritonServer

pytestmark = pytest.mark.triton

TIMEOUT_S = 20.0
Windows = Callable[[int], np.ndarray[Any, Any]]
BAD_REQUESTS = {
    # what is wrong: (model, tensor name, type, shape, part of the message)
    "name": ("genre_cnn", "sound", "FP32", [1, 66_150], "sound"),
    "type": ("genre_cnn", "audio", "INT32", [1, 66_150], "FP32"),
    "length": ("genre_cnn", "audio", "FP32", [1, 1000], "66150"),
    "rank": ("genre_cnn", "audio", "FP32", [1, 1, 66_150], "shape"),
    "no batch axis": ("genre_cnn", "audio", "FP32", [66_150], "<= 64"),
    "batch": ("genre_cnn", "audio", "FP32", [65, 66_150], "<= 64"),
    "model": ("no_such_model", "audio", "FP32", [1, 66_150], "no_such_model"),
}


def post(url: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def infer_json(server: TritonServer, model: str, body: Any) -> tuple[int, dict[str, Any]]:
    status, answer = post(f"{server.http_url}/v2/models/{model}/infer", json.dumps(body).encode())
    return status, json.loads(answer)


def infer_binary(
    server: TritonServer, model: str, *, name: str, dtype: str, shape: list[int], data: bytes
) -> tuple[int, dict[str, Any]]:
    tensor = {"name": name, "datatype": dtype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [tensor]}).encode()
    status, answer = post(
        f"{server.http_url}/v2/models/{model}/infer",
        header + data,
        **{"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"},
    )
    return status, json.loads(answer)


@pytest.fixture
def grpc(server: TritonServer) -> Iterator[grpc_client.InferenceServerClient]:
    client = grpc_client.InferenceServerClient(server.grpc_url)
    yield client
    client.close()


@pytest.mark.parametrize("wrong", BAD_REQUESTS)
def test_http_json(server: TritonServer, wrong: str) -> None:
    model, name, dtype, shape, part = BAD_REQUESTS[wrong]
    body = {"inputs": [{"name": name, "datatype": dtype, "shape": shape, "data": [0] * int(np.prod(shape))}]}
    status, answer = infer_json(server, model, body)
    assert 400 <= status < 500
    assert part in answer["error"]


@pytest.mark.parametrize("wrong", BAD_REQUESTS)
def test_http_binary(server: TritonServer, wrong: str) -> None:
    model, name, dtype, shape, part = BAD_REQUESTS[wrong]
    status, answer = infer_binary(
        server, model, name=name, dtype=dtype, shape=shape, data=bytes(4 * int(np.prod(shape)))
    )
    assert 400 <= status < 500
    assert part in answer["error"]


@pytest.mark.parametrize("wrong", BAD_REQUESTS)
def test_grpc(grpc: grpc_client.InferenceServerClient, wrong: str) -> None:
    model, name, dtype, shape, part = BAD_REQUESTS[wrong]
    tensor = grpc_client.InferInput(name, shape, dtype)
    tensor.set_data_from_numpy(np.zeros(shape, np.int32 if dtype == "INT32" else np.float32))
    with pytest.raises(InferenceServerException, match=part) as caught:
        grpc.infer(model, [tensor], client_timeout=TIMEOUT_S)
    expected = {"model": "NOT_FOUND"}.get(wrong, "INVALID_ARGUMENT")
    # 2.51 answers UNAVAILABLE for a model that it has never heard of.
    assert caught.value.status() in (f"StatusCode.{expected}", "StatusCode.UNAVAILABLE" if wrong == "model" else "")


@pytest.mark.parametrize(
    ("body", "part"),
    [(b"{}", "inputs"), (b"not json", "JSON"), (b'{"inputs": []}', "inputs"), (b'{"inputs": [{}]}', "data")],
)
def test_a_body_that_is_no_request(server: TritonServer, body: bytes, part: str) -> None:
    status, answer = post(f"{server.http_url}/v2/models/genre_cnn/infer", body)
    assert status in (400, 500)  # 2.51 counts what it cannot parse as its own fault
    assert part in json.loads(answer)["error"]


@pytest.mark.parametrize("n_bytes", [0, 4 * 66_150 - 4, 4 * 66_150 + 4])
def test_fewer_or_more_bytes_than_the_shape_says(server: TritonServer, n_bytes: int) -> None:
    status, answer = infer_binary(
        server, "genre_cnn", name="audio", dtype="FP32", shape=[1, 66_150], data=bytes(n_bytes)
    )
    assert status == 400
    assert "264600" in answer["error"] or "byte" in answer["error"]


def test_a_long_json_body_does_not_end_the_server(server: TritonServer) -> None:
    shape = [64, 66_150]
    tensor = {"name": "audio", "datatype": "FP32", "shape": shape, "data": [0] * int(np.prod(shape))}
    status, _ = infer_json(server, "genre_cnn", {"inputs": [tensor]})
    assert status == 200


def test_a_deeply_nested_json_body_does_not_end_the_server(server: TritonServer) -> None:
    status, _ = post(f"{server.http_url}/v2/models/genre_cnn/infer", b"[" * 100_000 + b"]" * 100_000)
    assert status in (400, 500)
    assert server.is_alive()


def test_an_output_that_the_model_does_not_have(server: TritonServer, windows: Windows) -> None:
    audio = {"name": "audio", "datatype": "FP32", "shape": [1, 66_150], "data": windows(1).ravel().tolist()}
    status, answer = infer_json(server, "genre_cnn", {"inputs": [audio], "outputs": [{"name": "mood"}]})
    assert status == 400
    assert "mood" in answer["error"]


def test_the_server_still_answers_after_all_that(server: TritonServer, windows: Windows) -> None:
    status, answer = infer_json(
        server,
        "genre_cnn",
        {
            "inputs": [
                {"name": "audio", "datatype": "FP32", "shape": [1, 66_150], "data": windows(1).ravel().tolist()}
            ],
            "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}],
        },
    )
    assert status == 200
    best = answer["outputs"][0]["data"]
    assert len(best) == 2
    assert best[0].split(":")[2] in {"classical", "electronic", "pop", "rock"}


ADMIN_CALLS = [
    "/v2/repository/index",
    "/v2/repository/models/genre_cnn/load",
    "/v2/repository/models/genre_cnn/unload",
    "/v2/systemsharedmemory/unregister",
    "/v2/logging",
    "/v2/trace/setting",
]


@pytest.mark.parametrize("path", ADMIN_CALLS)
@pytest.mark.parametrize("headers", [{}, {ADMIN_HEADER: "wrong"}, {ADMIN_HEADER: "*" * 43}])
def test_admin_over_http_needs_the_token(server: TritonServer, path: str, headers: dict[str, str]) -> None:
    status, answer = post(server.http_url + path, b"{}", **headers)
    assert status == 403
    assert "restricted" in json.loads(answer)["error"]
    assert server.admin_token.encode() not in answer
    assert server.models == {"genre_cnn": ["1"]}


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/logging", "/v2/trace/setting"])
def test_admin_over_http_is_served_with_the_token(server: TritonServer, path: str) -> None:
    status, _ = post(server.http_url + path, b"{}", **{ADMIN_HEADER: server.admin_token})
    assert status == 200


def test_admin_over_grpc_needs_the_token(server: TritonServer, grpc: grpc_client.InferenceServerClient) -> None:
    calls: list[Callable[..., Any]] = [
        grpc.get_model_repository_index,
        grpc.get_log_settings,
        grpc.get_trace_settings,
        grpc.get_system_shared_memory_status,
    ]
    for call in calls:
        for headers in (None, {GRPC_ADMIN_HEADER: "wrong"}, {ADMIN_HEADER: server.admin_token}):
            with pytest.raises(InferenceServerException, match="restricted"):
                call(headers=headers)
        assert call(headers={GRPC_ADMIN_HEADER: server.admin_token}) is not None
    with pytest.raises(InferenceServerException, match="restricted"):
        grpc.load_model("genre_cnn")
    assert grpc.is_server_live()  # the whole server is not ready where other tests have unloaded a model of theirs
    assert grpc.is_model_ready("genre_cnn")


def test_the_token_is_stored_for_this_user_alone_and_gone_from_the_command_line(server: TritonServer) -> None:
    assert server.token_path is not None
    assert server.token_path.read_text().strip() == server.admin_token
    assert server.token_path.stat().st_mode & 0o777 == 0o600
    assert server.token_path.parent.stat().st_mode & 0o777 == 0o700
    assert server.log_path.stat().st_mode & 0o777 == 0o600
    assert server.admin_token not in server.log_path.read_text()
    assert server.admin_token.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()


def test_a_frame_of_nonsense_on_the_http_port_does_no_harm(server: TritonServer) -> None:
    import socket

    host, _, port = server.http_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(struct.pack("<64Q", *range(64)))
    assert server.models == {"genre_cnn": ["1"]}
