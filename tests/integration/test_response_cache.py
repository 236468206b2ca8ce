"""A model that opted in to Triton's response cache is answered from it."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.integration.python_models import wait_until

from tritone.endpoints import make_endpoint
from tritone_export.config import config_files
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.calls import Calls
from tritone_serving.server.options import RESPONSE_CACHE_BYTES
from tritone_training.declaration import Axis, Batching, Declaration, Instances, QueuePolicy, Serving, Tensor

pytestmark = pytest.mark.triton

AXES = (Axis("feature", 4),)
DECLARATION = Declaration(
    name="double",
    summary="Twice its input.",
    inputs=(Tensor("x", "FP32", AXES, "values"),),
    outputs=(Tensor("y", "FP32", AXES, "twice the values"),),
    serving=Serving(
        batching=Batching(max_batch_size=8, preferred_batch_sizes=(), max_queue_delay_microseconds=0),
        queue=QueuePolicy(default_timeout_microseconds=5_000_000, max_queue_size=64),
        instances=Instances(n_cpu=2, n_gpu=0, n_intra_op_threads=1),
        warmup_batch_sizes=(),  # Triton counts warm-up requests, too
        response_cache=True,
    ),
)


def write_model(folder: Path) -> None:
    shape = ["batch", 4]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(config_files(DECLARATION)["config.pbtxt"])


def metric(server: TritonServer, name: str) -> int:
    """Sum a counter of the model over its versions; 0 if Triton does not have it."""
    with urllib.request.urlopen(server.metrics_url, timeout=5) as reply:  # noqa: S310  - the server's own address
        lines = reply.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(name) and 'model="double"' in line)


@pytest.mark.parametrize(("cache_bytes", "n_hits"), [(RESPONSE_CACHE_BYTES, 2), (0, 0)], ids=["on", "off by default"])
def test_equal_requests_are_answered_from_the_cache(
    tmp_path: Path, options_for: Callable[..., ServerOptions], cache_bytes: int, n_hits: int
) -> None:
    write_model(tmp_path / "double")
    given = {"response_cache_bytes": cache_bytes} if cache_bytes else {}
    with TritonServer.start(options_for(tmp_path, **given)) as server, Calls(make_endpoint(server.grpc_url)) as calls:
        for values in ([1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [1, 2, 3, 4]):
            x = np.array([values], np.float32)
            assert calls.infer("double", {"x": x}, timeout_s=5).outputs["y"].tolist() == (x + x).tolist()
        assert wait_until(lambda: metric(server, "nv_inference_request_success") == 4, 5) < 5
        assert metric(server, "nv_cache_num_hits_per_model") == n_hits
