"""Interactive requests go before batch requests: on the real server, with the configuration that an export writes."""

from __future__ import annotations

import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tritone import MusicClient, ServerBusyError
from tritone.constants import PRIORITIES
from tritone.endpoints import make_endpoint
from tritone.messages import InferRequest
from tritone.transports import make_transport
from tritone_export.config import build_config, config_text
from tritone_serving import TritonServer
from tritone_training.declaration import Axis, Batching, Declaration, Instances, QueuePolicy, Serving, Tensor

pytestmark = [pytest.mark.triton, pytest.mark.quiet]

N_ROUNDS = 12_000  # of a small matrix product: 0.1 to 0.3 s a request
SIZE = 256
MAX_BATCH_QUEUE = 20
N_BATCH = 16
TIMEOUT_S = 60.0
AXIS = Axis("feature", SIZE)
SLOW = Declaration(
    name="slow",
    summary="multiplies its input with a matrix many times",
    inputs=(Tensor("x", "FP32", (AXIS,), "input"),),
    outputs=(Tensor("y", "FP32", (AXIS,), "output"),),
    serving=Serving(
        batching=Batching(max_batch_size=1, preferred_batch_sizes=(), max_queue_delay_microseconds=0),
        queue=QueuePolicy(
            default_timeout_microseconds=60_000_000, max_queue_size=256, max_batch_queue_size=MAX_BATCH_QUEUE
        ),
        instances=Instances(n_cpu=2, n_gpu=0, n_intra_op_threads=1),
    ),
)


def make_slow_graph() -> Any:
    """x (B, SIZE) -> y (B, SIZE), through a Loop."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape = ["batch", SIZE]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "weight"], ["product"]),
            helper.make_node("Tanh", ["product"], ["next"]),
            helper.make_node("Identity", ["going"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, shape),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "go", "x"], ["y"], body=body)],
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.array(N_ROUNDS, np.int64), "rounds"),
            numpy_helper.from_array(np.array(True), "go"),
            numpy_helper.from_array(np.eye(SIZE, dtype=np.float32), "weight"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="module")
def slow_server(server: TritonServer, serve_models: Any, tmp_path_factory: pytest.TempPathFactory) -> TritonServer:
    import onnx

    repository = tmp_path_factory.mktemp("slow")
    version = repository / "slow" / "1"
    version.mkdir(parents=True)
    onnx.save(make_slow_graph(), str(version / "model.onnx"))
    (repository / "slow" / "config.pbtxt").write_text(config_text(build_config(SLOW)))
    serve_models(repository)
    return server


class Callers:
    """Sends requests of one priority at the same time, and records when each was answered."""

    def __init__(self, url: str, priority: int, n: int) -> None:
        self._transport = make_transport(make_endpoint(url))
        self._priority = priority
        self._pool = ThreadPoolExecutor(n)
        self._lock = threading.Lock()
        self.answered: list[float] = []
        self.n_busy = 0
        self._futures = [self._pool.submit(self._call) for _ in range(n)]

    def finish(self) -> None:
        """Wait for all answers; any error except a full queue is raised."""
        try:
            for future in self._futures:
                future.result(TIMEOUT_S)
        finally:
            self._pool.shutdown()
            self._transport.close()

    def _call(self) -> None:
        x = np.zeros((1, SIZE), np.float32)
        request = InferRequest("slow", "request", {"x": x}, ("y",), priority=self._priority)
        try:
            self._transport.handle(request, timeout_s=TIMEOUT_S)
        except ServerBusyError:
            with self._lock:
                self.n_busy += 1
            return
        with self._lock:
            self.answered.append(time.monotonic())


def wait_for_queue(server: TritonServer, n_least: int) -> None:
    """Wait until so many requests are in the model's queue."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with urllib.request.urlopen(server.metrics_url, timeout=5) as reply:  # noqa: S310  - the server's own address
            lines = reply.read().decode().splitlines()
        pending = [line for line in lines if line.startswith('nv_inference_pending_request_count{model="slow"')]
        if pending and float(pending[0].rpartition(" ")[2]) >= n_least:
            return
        time.sleep(0.01)
    raise AssertionError(f"fewer than {n_least} requests wait: {pending}")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_interactive_requests_go_before_batch_requests_that_wait(slow_server: TritonServer, protocol: str) -> None:
    batch = Callers(getattr(slow_server, f"{protocol}_url"), PRIORITIES["batch"], N_BATCH)
    wait_for_queue(slow_server, 10)
    interactive = Callers(slow_server.grpc_url, 0, 3)  # without a priority: the model's default
    interactive.finish()
    batch.finish()
    assert (len(interactive.answered), len(batch.answered)) == (3, N_BATCH)
    n_later = sum(moment > max(interactive.answered) for moment in batch.answered)
    # In the order of arrival it would be none: all batch requests came first.
    assert n_later >= 4, f"only {n_later} batch requests were answered after the interactive ones"


def test_a_full_batch_queue_does_not_refuse_interactive_requests(slow_server: TritonServer) -> None:
    batch = Callers(slow_server.grpc_url, PRIORITIES["batch"], MAX_BATCH_QUEUE + 16)
    wait_for_queue(slow_server, MAX_BATCH_QUEUE)
    interactive = Callers(slow_server.grpc_url, PRIORITIES["interactive"], 4)
    interactive.finish()
    batch.finish()
    assert (len(interactive.answered), interactive.n_busy) == (4, 0)
    assert batch.n_busy > 0
    assert len(batch.answered) >= MAX_BATCH_QUEUE


def test_the_sdk_sends_its_priority(server: TritonServer) -> None:
    sound = (np.random.default_rng(3).uniform(-0.5, 0.5, 66_150).astype(np.float32), 22_050)
    for url in (server.grpc_url, server.http_url):
        # A model without priorities ignores the number.
        with MusicClient(url, priority="batch") as music:
            assert music.classify(sound).label == music.with_priority("interactive").classify(sound).label


def test_the_configuration_that_is_served(slow_server: TritonServer) -> None:
    with urllib.request.urlopen(f"{slow_server.http_url}/v2/models/slow/config", timeout=5) as reply:  # noqa: S310
        text = reply.read().decode()
    assert '"priority_levels":2' in text
    assert '"default_priority_level":1' in text
    assert f'"max_queue_size":{MAX_BATCH_QUEUE}' in text
