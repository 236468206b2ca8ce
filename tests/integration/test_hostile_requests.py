"""Requests that end or fill an unfixed Triton 2.51, sent to the server that the launcher starts."""

from __future__ import annotations

import gzip
import http.client
import json
import stat
import zlib
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tritone.endpoints import make_endpoint
from tritone_serving import CanaryError, TritonServer
from tritone_serving.calls import Calls
from tritone_serving.canary import HEALTH_PARAMETER, check_health, make_inputs, run_canary
from tritone_serving.security.callers import CANARY_PARAMETER
from tritone_serving.server import runtime_folder as runtime
from tritone_serving.supervision.processes import anonymous_bytes, stubs_of

pytestmark = pytest.mark.triton

MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            words = np.array([[str(v).encode() for v in row] for row in x], np.object_)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("words", words), pb_utils.Tensor("y", x)]))
        return answers
"""
CONFIG = """
name: "words"
backend: "python"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "words" data_type: TYPE_STRING dims: [ -1 ] }, { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
VALUES = [0.5, 2.0, 1.0]
N_BOMB_BYTES = 256 << 20


@pytest.fixture(scope="module")
def words_server(server: TritonServer, serve_models: Any, tmp_path_factory: pytest.TempPathFactory) -> TritonServer:
    repository = tmp_path_factory.mktemp("words")
    (repository / "words" / "1").mkdir(parents=True)
    (repository / "words" / "1" / "model.py").write_text(MODEL)
    (repository / "words" / "config.pbtxt").write_text(CONFIG)
    if not server.binary_fixes:
        pytest.skip("the installed server is not the binary of the pinned wheel, which the fixes are for")
    serve_models(repository)
    return server


def body(**output: Any) -> bytes:
    request: dict[str, Any] = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, len(VALUES)], "data": VALUES}]}
    if output:
        request["outputs"] = [output]
    return json.dumps(request).encode()


def post(words_server: TritonServer, content: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(*words_server.http_url.removeprefix("http://").split(":"), timeout=30)  # type: ignore[arg-type]
    try:
        connection.request("POST", "/v2/models/words/infer", content, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()


def grpc_input() -> triton_grpc.InferInput:
    tensor = triton_grpc.InferInput("x", [1, len(VALUES)], "FP32")
    tensor.set_data_from_numpy(np.array([VALUES], np.float32))
    return tensor


@pytest.mark.parametrize("n_classes", [1, 2, 10**6])
@pytest.mark.parametrize("is_binary", [False, True])
def test_classification_of_text_over_http_is_refused(
    words_server: TritonServer, n_classes: int, is_binary: bool
) -> None:
    pid = words_server.pid
    parameters = {"classification": n_classes, "binary_data": is_binary}
    status, answer = post(words_server, body(name="words", parameters=parameters))
    assert status == http.HTTPStatus.BAD_REQUEST
    assert "BYTES" in answer["error"]
    assert words_server.is_live()
    assert words_server.pid == pid


@pytest.mark.parametrize("n_classes", [1, 2, 10**6])
def test_classification_of_text_over_grpc_is_refused(words_server: TritonServer, n_classes: int) -> None:
    with triton_grpc.InferenceServerClient(words_server.grpc_url) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(
                "words", [grpc_input()], outputs=[triton_grpc.InferRequestedOutput("words", class_count=n_classes)]
            )
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert client.is_server_live()


def test_classification_of_numbers_works(words_server: TritonServer) -> None:
    with triton_grpc.InferenceServerClient(words_server.grpc_url) as client:
        outputs = [triton_grpc.InferRequestedOutput("y", class_count=2)]
        classes = client.infer("words", [grpc_input()], outputs=outputs).as_numpy("y")
    assert [each.decode().split(":")[1] for each in classes.ravel()] == ["1", "2"]
    status, answer = post(words_server, body(name="y", parameters={"classification": 1}))
    assert status == http.HTTPStatus.OK
    assert answer["outputs"][0]["data"][0].endswith(":1")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_body_is_refused_before_it_is_unpacked(words_server: TritonServer, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    assert post(words_server, pack(body()), {"Content-Encoding": encoding})[0] >= http.HTTPStatus.BAD_REQUEST
    before = anonymous_bytes([words_server.pid])
    for _ in range(4):
        assert (
            post(words_server, pack(bytes(N_BOMB_BYTES)), {"Content-Encoding": encoding})[0]
            >= http.HTTPStatus.BAD_REQUEST
        )
    assert anonymous_bytes([words_server.pid]) - before < N_BOMB_BYTES // 4
    assert post(words_server, body(), {"Content-Encoding": "identity"})[0] == http.HTTPStatus.OK


@pytest.mark.parametrize("shape", [[2**62, 1], [1, 2**61 + 1], [1, 4 * 10**9], [2**31, 2**33], [1, 2**24 + 1]])
@pytest.mark.parametrize("n_values", [1, 10, 100_000])
def test_json_under_a_shape_that_does_not_fit_is_refused_at_once(
    words_server: TritonServer, shape: list[int], n_values: int
) -> None:
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": [1.0] * n_values}]}
    before = anonymous_bytes([words_server.pid])
    status, _ = post(words_server, json.dumps(request).encode())
    assert status == http.HTTPStatus.BAD_REQUEST
    assert anonymous_bytes([words_server.pid]) - before < 64 << 20
    assert post(words_server, body())[0] == http.HTTPStatus.OK


@pytest.mark.parametrize("shape", [[1, 2**62], [1, 2**61 + 1], [2**31, 2**33], [2**32, 2**32], [2**33, 2**31]])
@pytest.mark.parametrize("n_bytes", [0, 4])
def test_tensor_under_a_shape_that_overflows_is_refused_before_the_model_sees_it(
    words_server: TritonServer, shape: list[int], n_bytes: int
) -> None:
    stubs = {stub.pid for stub in stubs_of(words_server.pid)}
    request = service_pb2.ModelInferRequest(model_name="words")
    request.inputs.add(name="x", datatype="FP32", shape=shape)
    request.raw_input_contents.append(bytes(n_bytes))
    with grpc.insecure_channel(words_server.grpc_url) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert {stub.pid for stub in stubs_of(words_server.pid)} == stubs


def test_requests_in_shared_memory_are_closed_to_other_users(words_server: TritonServer) -> None:
    folder = words_server.runtime_folder
    assert folder is not None
    regions = list(runtime.SHARED_MEMORY.glob(f"{folder.name}*"))
    assert regions
    assert {stat.S_IMODE(region.stat().st_mode) for region in regions} == {0o600}


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_grpc_message_is_refused(words_server: TritonServer, algorithm: str) -> None:
    zeros = np.zeros((1, 1 << 20), np.float32)
    tensor = triton_grpc.InferInput("x", zeros.shape, "FP32")
    tensor.set_data_from_numpy(zeros)
    with triton_grpc.InferenceServerClient(words_server.grpc_url) as client:
        with pytest.raises(InferenceServerException):
            client.infer("words", [tensor], compression_algorithm=algorithm)
        assert client.is_server_live()
        assert client.infer("words", [grpc_input()]).as_numpy("y").tolist() == [VALUES]


def test_health_check_is_answered_without_running_the_model(server: TritonServer) -> None:
    with Calls(make_endpoint(server.grpc_url)) as calls:
        config = calls.config("genre_cnn", timeout_s=10)
        check_health(calls, "genre_cnn", config, token=server.health_token, timeout_s=10)
        inputs = make_inputs(config)
        parameters = {CANARY_PARAMETER: True, HEALTH_PARAMETER: server.health_token}
        checked = calls.infer("genre_cnn", inputs, timeout_s=10, parameters=parameters)
        assert dict(checked.outputs) == {}


@pytest.mark.parametrize("token", ["", "wrong", "x" * 100_000])
def test_caller_cannot_ask_for_an_answer_without_outputs(server: TritonServer, token: str) -> None:
    with Calls(make_endpoint(server.grpc_url)) as calls:
        config = calls.config("genre_cnn", timeout_s=10)
        inputs = make_inputs(config)
        for _ in range(2):  # the second comes from the response cache
            answer = calls.infer("genre_cnn", inputs, timeout_s=10, parameters={HEALTH_PARAMETER: token})
            assert set(answer.outputs) == {"probabilities", "emotions", "embedding"}
        try:
            run_canary(calls, "genre_cnn", config, timeout_s=10, inputs=inputs)
        except CanaryError as error:
            pytest.fail(str(error))


def test_header_of_bytes_that_are_no_text_is_ignored(server: TritonServer) -> None:
    window = np.random.default_rng().uniform(-1, 1, (1, 66_150)).astype(np.float32)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "audio",
                    "datatype": "FP32",
                    "shape": [1, 66_150],
                    "parameters": {"binary_data_size": window.nbytes},
                }
            ]
        }
    ).encode()
    connection = http.client.HTTPConnection(*server.http_url.removeprefix("http://").split(":"), timeout=30)  # type: ignore[arg-type]
    try:
        connection.putrequest("POST", "/v2/models/genre_cnn/infer")
        connection.putheader("Content-Length", str(len(head) + window.nbytes))
        connection.putheader("Inference-Header-Content-Length", str(len(head)))
        for name in ("tritone-service-key", "tritone-user-token", HEALTH_PARAMETER):
            connection.putheader(name, b"\xff\xfe{[")
        connection.endheaders(head + window.tobytes())
        assert connection.getresponse().status == http.HTTPStatus.OK
    finally:
        connection.close()
