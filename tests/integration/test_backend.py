"""The `onnxruntime` backend inside a real server: joined runs, split answers, and errors one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from tritone_serving import ServerOptions, TritonServer

pytestmark = pytest.mark.triton

Array = np.ndarray[Any, Any]
Windows = Callable[[int], Array]
OUTPUTS = ("probabilities", "emotions", "embedding")
TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def reference(repository: Path) -> Callable[[Array], dict[str, Array]]:
    """The same file, run in this process."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        repository / "genre_cnn" / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    return lambda audio: dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"audio": audio}), strict=True))


def infer(url: str, audio: Array, outputs: tuple[str, ...] = OUTPUTS, model: str = "genre_cnn") -> dict[str, Array]:
    with grpc_client.InferenceServerClient(url) as client:
        tensor = grpc_client.InferInput("audio", list(audio.shape), "FP32")
        tensor.set_data_from_numpy(audio)
        wanted = [grpc_client.InferRequestedOutput(name) for name in outputs]
        answer = client.infer(model, [tensor], outputs=wanted or None, client_timeout=TIMEOUT_S)
        return {tensor.name: answer.as_numpy(tensor.name) for tensor in answer.get_response().outputs}


def counts(url: str, model: str = "genre_cnn") -> tuple[int, int]:
    """(inferences, executions) so far, by the server's own statistics."""
    with grpc_client.InferenceServerClient(url) as client:
        statistics = client.get_inference_statistics(model).model_stats[0]
    return statistics.inference_count, statistics.execution_count


@pytest.mark.parametrize("n_windows", [1, 7, 64])
def test_answers_equal_onnxruntime(
    server: TritonServer, windows: Windows, reference: Callable[[Array], dict[str, Array]], n_windows: int
) -> None:
    audio = windows(n_windows)
    expected = reference(audio)
    got = infer(server.grpc_url, audio)
    for name in OUTPUTS:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("outputs", [("embedding",), ("emotions", "probabilities"), ()])
def test_only_what_was_asked_for(server: TritonServer, windows: Windows, outputs: tuple[str, ...]) -> None:
    got = infer(server.grpc_url, windows(2), outputs)
    assert set(got) == set(outputs or OUTPUTS)


def test_requests_are_joined_and_each_gets_its_own_rows(
    tmp_path: Path,
    make_model_repository: Callable[..., Path],
    options_for: Callable[..., ServerOptions],
    windows: Windows,
    reference: Callable[[Array], dict[str, Array]],
) -> None:
    n_requests = 12
    # A long queue delay makes the batcher wait for all of them, so that the test does not hang on luck.
    repository = make_model_repository(tmp_path, delay_us=300_000)
    inputs = [windows(1 + index % 3) for index in range(n_requests)]
    wanted = [OUTPUTS[: 1 + index % 3] for index in range(n_requests)]
    barrier = threading.Barrier(n_requests)

    def ask(index: int) -> dict[str, Array]:
        barrier.wait(TIMEOUT_S)
        return infer(server.grpc_url, inputs[index], wanted[index])

    with TritonServer.start(options_for(repository)) as server, ThreadPoolExecutor(n_requests) as pool:
        answers = list(pool.map(ask, range(n_requests)))
        n_rows = sum(len(audio) for audio in inputs)
        until_s = time.monotonic() + TIMEOUT_S
        while counts(server.grpc_url)[0] < n_rows and time.monotonic() < until_s:  # counted after the response is sent
            time.sleep(0.05)
        n_inferences, n_executions = counts(server.grpc_url)
    assert n_inferences == n_rows
    assert n_executions < n_requests
    for audio, names, answer in zip(inputs, wanted, answers, strict=True):
        expected = reference(audio)
        assert set(answer) == set(names)
        for name in names:
            np.testing.assert_allclose(answer[name], expected[name], atol=1e-5, err_msg=name)


def write_gather(repository: Path, *, delay_us: int) -> None:
    """A model that fails on some values, which no check of names, types and shapes can see: table[index].

    index (B, 1) int64, 0..7 -> value (B, 1) float.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = numpy_helper.from_array(np.arange(8, dtype=np.float32) * 10, "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["value"])],
        "gather",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["batch", 1])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["batch", 1])],
        [table],
    )
    version = repository / "gather" / "1"
    version.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), version / "model.onnx"
    )
    (repository / "gather" / "config.pbtxt").write_text(
        'name: "gather"\nbackend: "onnxruntime"\nmax_batch_size: 64\n'
        'input [ { name: "index" data_type: TYPE_INT64 dims: [ 1 ] } ]\n'
        'output [ { name: "value" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'
        f"dynamic_batching {{ preferred_batch_size: [ 16 ] max_queue_delay_microseconds: {delay_us} }}\n"
        'parameters { key: "intra_op_thread_count" value: { string_value: "1" } }\n'
    )


def test_one_bad_request_among_good_ones(tmp_path: Path, options_for: Callable[..., ServerOptions]) -> None:
    write_gather(tmp_path, delay_us=300_000)
    n_requests, bad = 8, 3
    barrier = threading.Barrier(n_requests)

    def ask(index: int) -> float | InferenceServerException:
        barrier.wait(TIMEOUT_S)
        with grpc_client.InferenceServerClient(server.grpc_url) as client:
            tensor = grpc_client.InferInput("index", [1, 1], "INT64")
            tensor.set_data_from_numpy(np.array([[99 if index == bad else index]], np.int64))
            try:
                return float(client.infer("gather", [tensor], client_timeout=TIMEOUT_S).as_numpy("value")[0, 0])
            except InferenceServerException as error:
                return error

    with TritonServer.start(options_for(tmp_path)) as server, ThreadPoolExecutor(n_requests) as pool:
        answers = list(pool.map(ask, range(n_requests)))
        with grpc_client.InferenceServerClient(server.grpc_url) as client:
            until_s = time.monotonic() + TIMEOUT_S
            sizes: list[int] = []
            while not sizes and time.monotonic() < until_s:  # counted after the response is sent
                batches = client.get_inference_statistics("gather").model_stats[0].batch_stats
                sizes = [batch.batch_size for batch in batches]
    assert max(sizes) > 1  # they did share an execute call
    error = answers.pop(bad)
    assert isinstance(error, InferenceServerException)
    assert "this request does not fit the model" in str(error)
    assert error.status() == "StatusCode.INVALID_ARGUMENT"  # an index that is not there is the sender's mistake
    assert "99" in str(error)
    assert answers == [index * 10.0 for index in range(n_requests) if index != bad]


def test_options_reach_onnxruntime_and_wrong_ones_are_named(
    tmp_path: Path,
    make_model_repository: Callable[..., Path],
    options_for: Callable[..., ServerOptions],
    windows: Windows,
) -> None:
    from tritone_serving import ModelLoadError

    repository = make_model_repository(tmp_path)
    config = repository / "genre_cnn" / "config.pbtxt"
    good = config.read_text()
    config.write_text(
        good
        + "optimization { graph { level: 1 } }\n"
        + 'parameters { key: "execution_mode" value: { string_value: "1" } }\n'
        + 'parameters { key: "inter_op_thread_count" value: { string_value: "2" } }\n'
        + 'parameters { key: "enable_mem_arena" value: { string_value: "0" } }\n'
    )
    with TritonServer.start(options_for(repository)) as server:
        assert set(infer(server.grpc_url, windows(3))) == set(OUTPUTS)
        config.write_text(good.replace('string_value: "1"', 'string_value: "many"'))
        with pytest.raises(ModelLoadError, match="intra_op_thread_count is 'many'; expected a whole number"):
            server.load_model("genre_cnn")
        assert server.models == {"genre_cnn": ["1"]}


def test_instances_run_side_by_side(
    tmp_path: Path,
    make_model_repository: Callable[..., Path],
    options_for: Callable[..., ServerOptions],
    windows: Windows,
) -> None:
    repository = make_model_repository(tmp_path)
    config = repository / "genre_cnn" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    with TritonServer.start(options_for(repository)) as server:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: infer(server.grpc_url, windows(2)), range(12)))
        assert all(answer["probabilities"].shape == (2, 4) for answer in answers)
