"""Ray Serve."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from google.protobuf.wrappers_pb2 import BytesValue

from benchmarks.peers.interface import SERVICES, Peer, Request, Transport
from benchmarks.peers.workloads import Array, Workload


class RayServe(Peer):
    """A proxy process for HTTP and gRPC in front of two replicas of each model."""

    name = "ray"
    title = "Ray Serve"
    version_of = "ray"
    requirements = "ray.txt"
    protocols = {"http": "raw values", "grpc": "raw values in a BytesValue"}  # noqa: RUF012
    settings = "2 replicas of 1 thread for each model, RAY_SERVE_THROUGHPUT_OPTIMIZED, no dashboard, no batching"

    def prepare(self) -> None:
        (self.folder / "ready").unlink(missing_ok=True)

    def command(self) -> list[str]:
        ports = ["--http-port", str(self.ports["http"]), "--grpc-port", str(self.ports["grpc"])]
        return [str(self.python), str(SERVICES / "ray_service.py"), *ports, "--ready", str(self.folder / "ready")]

    def environment(self) -> dict[str, str]:
        return {
            "PYTHONPATH": str(SERVICES),  # of the replicas and of the proxy
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # it would write a token to the home folder; all addresses are loopback
        }

    def is_ready(self) -> bool:
        return (self.folder / "ready").exists()

    def encode(self, transport: Transport, workload: Workload, inputs: Mapping[str, Array]) -> Request:
        raw = super().encode(transport, workload, inputs)
        if transport == "http":
            return raw
        message = BytesValue(value=raw.body).SerializeToString()
        return Request("/peers.Models/Infer", message, {"application": workload.model})

    def decode(self, transport: Transport, body: bytes, workload: Workload) -> npt.NDArray[np.float32]:
        if transport == "http":
            return super().decode(transport, body, workload)
        return np.frombuffer(BytesValue.FromString(body).value, np.float32)
