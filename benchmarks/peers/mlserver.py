"""MLServer with a runtime of our own, since it has none for ONNX files."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from benchmarks.peers.interface import N_WORKERS, SERVICES, Peer, PeerError, Request, Transport, http_get
from benchmarks.peers.v2_protocol import METHOD
from benchmarks.peers.workloads import Array, Workload

_LENGTH = struct.Struct("<I")  # before each element of a BYTES tensor


class MLServer(Peer):
    """Two processes that each load both models, behind one process for HTTP and gRPC."""

    name = "mlserver"
    title = "MLServer"
    version_of = "mlserver"
    requirements = "mlserver.txt"
    protocols = {"http": "V2, raw values in base64 in JSON", "grpc": "V2, raw values in a BYTES tensor"}  # noqa: RUF012
    settings = "parallel_workers 2 of 1 thread, own runtime, no adaptive batching, metrics and access log off"

    def prepare(self) -> None:
        settings = {
            "host": "127.0.0.1",
            "http_port": self.ports["http"],
            "grpc_port": self.ports["grpc"],
            "metrics_port": self.ports["other"],
            "metrics_endpoint": None,
            "debug": False,
            "gzip_enabled": False,
            "grpc_max_message_length": 64 << 20,
            "parallel_workers": N_WORKERS,
            "environments_dir": str(self.folder / "environments"),
        }
        (self.folder / "settings.json").write_text(json.dumps(settings))
        for name, path in self.models.items():
            model = {
                "name": name,
                "implementation": "mlserver_runtime.RawRuntime",
                "parameters": {"uri": str(path.resolve())},
            }
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name / "model-settings.json").write_text(json.dumps(model))

    def command(self) -> list[str]:
        return [str(self.python), "-c", "from mlserver.cli import main; main()", "start", str(self.folder)]

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(SERVICES)}

    def is_ready(self) -> bool:
        return http_get(self.ports["http"], "/v2/health/ready")[0] == 200

    def encode(self, transport: Transport, workload: Workload, inputs: Mapping[str, Array]) -> Request:
        body = b"".join(array.tobytes() for array in inputs.values())
        if transport == "grpc":
            message = service_pb2.ModelInferRequest(model_name=workload.model)
            message.inputs.add(name="values", datatype="BYTES", shape=[1])
            message.raw_input_contents.append(_LENGTH.pack(len(body)) + body)
            return Request(METHOD, message.SerializeToString())
        tensor = {
            "name": "values",
            "datatype": "BYTES",
            "shape": [1],
            "parameters": {"content_type": "base64"},
            "data": [base64.b64encode(body).decode()],
        }
        target = f"/v2/models/{workload.model}/infer"
        return Request(target, json.dumps({"inputs": [tensor]}).encode(), {"Content-Type": "application/json"})

    def decode(self, transport: Transport, body: bytes, workload: Workload) -> npt.NDArray[np.float32]:
        if transport == "grpc":
            (raw,) = service_pb2.ModelInferResponse.FromString(body).raw_output_contents
            return np.frombuffer(raw[_LENGTH.size :], np.float32)
        try:
            return np.frombuffer(base64.b64decode(json.loads(body)["outputs"][0]["data"][0]), np.float32)
        except (ValueError, LookupError) as error:
            raise PeerError(f"{self.title} returns no outputs: {body[:300]!r}") from error
