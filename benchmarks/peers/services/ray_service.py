"""The models behind Ray Serve, on raw bytes over HTTP and gRPC."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

import ray
from google.protobuf.wrappers_pb2 import BytesValue
from raw_models import RawModel, model_paths
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from starlette.requests import Request
from starlette.responses import Response

N_REPLICAS = 2
OBJECT_STORE_BYTES = 100 << 20


@serve.deployment(num_replicas=N_REPLICAS, ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=64)
class Model:
    """A replica of one model."""

    def __init__(self, path: str) -> None:
        self._model = RawModel(path, n_threads=1)

    async def __call__(self, request: Request) -> Response:
        return Response(self._model.run_bytes(await request.body()), media_type="application/octet-stream")

    async def Infer(self, message: BytesValue) -> BytesValue:  # noqa: N802  - the name of the gRPC method
        return BytesValue(value=self._model.run_bytes(message.value))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--ready", type=Path, required=True, help="file that is created when all replicas are ready")
    arguments = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, log_to_driver=False)
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=arguments.http_port),
        grpc_options=gRPCOptions(port=arguments.grpc_port, grpc_servicer_functions=["ray_methods.add_to_server"]),
    )
    for name, path in model_paths().items():
        serve.run(Model.bind(path), name=name, route_prefix=f"/infer/{name}")
    arguments.ready.touch()
    stop.wait()
    serve.shutdown()
    ray.shutdown()
