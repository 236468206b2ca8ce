"""Limits of a model's inputs on a real server: warm-up passes, callers' requests beyond the limits do not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from tritone_export.config import config_files
from tritone_serving import TritonServer
from tritone_training.declaration import (
    Axis,
    Batching,
    Declaration,
    Instances,
    Limits,
    QueuePolicy,
    Serving,
    Tensor,
)

pytestmark = pytest.mark.triton
Array = np.ndarray[Any, Any]
TIMEOUT_S = 20.0
FRAME = Axis("frame", max_size=16, max_total=32)
DECLARATION = Declaration(
    name="limited",
    summary="Halves numbers, and takes roots of them that some do not have.",
    inputs=(
        Tensor("x", "FP32", (FRAME,), "", limits=Limits(minimum=0, maximum=1)),
        Tensor("temperature", "FP32", (), "", limits=Limits(minimum=0.001, maximum=100)),
    ),
    outputs=(Tensor("half", "FP32", (FRAME,), ""), Tensor("root", "FP32", (FRAME,), "")),
    serving=Serving(
        batching=Batching(max_batch_size=8, preferred_batch_sizes=(8,), max_queue_delay_microseconds=200_000),
        queue=QueuePolicy(default_timeout_microseconds=5_000_000, max_queue_size=64),
        instances=Instances(n_cpu=2, n_gpu=0, n_intra_op_threads=1),
        warmup_batch_sizes=(1, 3),  # zeros: a temperature of 0, and roots that are NaN
    ),
)


def make_repository(path: Path) -> Path:
    """half = x / 2 / temperature, root = sqrt(x - 0.25)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["temperature", "one"], ["column"]),
            helper.make_node("Mul", ["x", "a_half"], ["halved"]),
            helper.make_node("Div", ["halved", "column"], ["half"]),
            helper.make_node("Sub", ["x", "a_quarter"], ["rest"]),
            helper.make_node("Sqrt", ["rest"], ["root"]),
        ],
        "limited",
        [value("x", TensorProto.FLOAT, ["batch", "frame"]), value("temperature", TensorProto.FLOAT, ["batch"])],
        [value(name, TensorProto.FLOAT, ["batch", "frame"]) for name in ("half", "root")],
        [
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array(0.5, np.float32), "a_half"),
            numpy_helper.from_array(np.array(0.25, np.float32), "a_quarter"),
        ],
    )
    folder = path / DECLARATION.name
    (folder / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(folder / "1" / "model.onnx"))
    for file, text in config_files(DECLARATION).items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text)
    return path


@pytest.fixture(scope="module")
def limited(server: TritonServer, serve_models: Any, tmp_path_factory: pytest.TempPathFactory) -> TritonServer:
    serve_models(make_repository(tmp_path_factory.mktemp("limited")))
    return server


def request(n_rows: int = 1, x: float | Array = 0.5, temperature: float = 1.0, n_frames: int = 4) -> dict[str, Array]:
    return {
        "x": np.full((n_rows, n_frames), x, np.float32),
        "temperature": np.full((n_rows, 1), temperature, np.float32),
    }


def ask_grpc(server: TritonServer, arrays: dict[str, Array], outputs: tuple[str, ...] = ("half", "root")) -> Any:
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        tensors = []
        for name, array in arrays.items():
            tensors.append(grpc_client.InferInput(name, list(array.shape), "FP32"))
            tensors[-1].set_data_from_numpy(array)
        wanted = [grpc_client.InferRequestedOutput(name) for name in outputs]
        answer = client.infer(DECLARATION.name, tensors, outputs=wanted, client_timeout=TIMEOUT_S)
        return {name: answer.as_numpy(name) for name in outputs}


def ask_http(server: TritonServer, arrays: dict[str, Array], outputs: tuple[str, ...] = ("half", "root")) -> Any:
    client = http_client.InferenceServerClient(
        server.http_url.removeprefix("http://"), network_timeout=TIMEOUT_S, connection_timeout=TIMEOUT_S
    )
    try:
        tensors = []
        for name, array in arrays.items():
            tensors.append(http_client.InferInput(name, list(array.shape), "FP32"))
            tensors[-1].set_data_from_numpy(array, binary_data=True)
        wanted = [http_client.InferRequestedOutput(name) for name in outputs]
        answer = client.infer(DECLARATION.name, tensors, outputs=wanted)
        return {name: answer.as_numpy(name) for name in outputs}
    finally:
        client.close()


BAD = {
    "zeros, as in the warm-up": (
        request(x=0.0, temperature=0.0),
        "invalid temperature: expected a number from 0.001 to 100, got 0.0",
    ),
    "a temperature below the least": (
        request(temperature=-1.0),
        "invalid temperature: expected a number from 0.001 to 100, got -1.0",
    ),
    "NaN": (request(x=np.nan), "invalid x[0]: expected a number from 0 to 1, got nan"),
    "infinity": (request(x=np.inf), "invalid x[0]: expected a number from 0 to 1, got inf"),
    "a huge number": (request(x=1e38), "invalid x[0]: expected a number from 0 to 1, got 1e+38"),
    "too long": (request(n_frames=17), "expected a size of 1 to 16 along axis frame, got 17"),
    "no frames": (request(n_frames=0), "expected a size of 1 to 16 along axis frame, got 0"),
    "too much in all": (
        request(3, n_frames=16),
        "expected at most 32 along axis frame in all rows of a request, got 48",
    ),
}


@pytest.mark.parametrize("ask", [ask_grpc, ask_http])
@pytest.mark.parametrize("what", BAD)
def test_a_request_beyond_the_limits_is_refused_each_time(limited: TritonServer, ask: Any, what: str) -> None:
    arrays, says = BAD[what]
    for _ in range(3):  # a response cache would answer the second time
        with pytest.raises(InferenceServerException) as caught:
            ask(limited, arrays)
        assert says in str(caught.value)
        assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


@pytest.mark.parametrize("ask", [ask_grpc, ask_http])
def test_a_request_within_the_limits_is_answered(limited: TritonServer, ask: Any) -> None:
    answer = ask(limited, request(2))
    np.testing.assert_array_equal(answer["half"], np.full((2, 4), 0.25, np.float32))
    np.testing.assert_array_equal(answer["root"], np.full((2, 4), 0.5, np.float32))


def test_an_output_that_is_not_finite_is_an_error_of_the_server(limited: TritonServer) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ask_http(limited, request(x=0.125))
    assert caught.value.status() == "500"
    assert "the model answered root with NaN or infinity" in str(caught.value)
    ask_http(limited, request(x=0.125), ("half",))


def test_denormal_numbers_are_flushed_where_triton_calls(limited: TritonServer) -> None:
    """The thread that opens the session is the one that runs it."""
    for _ in range(4):  # on either instance
        answer = ask_grpc(limited, request(x=1e-40), ("half",))
        assert not answer["half"].any()


def test_requests_that_are_joined_with_a_bad_one_are_answered(limited: TritonServer) -> None:
    barrier = threading.Barrier(8)

    def ask(number: int) -> Any:
        barrier.wait(TIMEOUT_S)
        try:
            return ask_grpc(limited, request(x=np.nan if number == 3 else 0.25 + number / 16))
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert "invalid x[0]: expected a number from 0 to 1, got nan" in str(answers.pop(3))
    for number, answer in zip((0, 1, 2, 4, 5, 6, 7), answers, strict=True):
        np.testing.assert_allclose(answer["half"], np.full((1, 4), (0.25 + number / 16) / 2), rtol=1e-6)
