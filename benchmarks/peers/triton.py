"""Triton, started by `tritone serve` with the configurations that `tritone export` wrote."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import tritonclient.http as triton
from tritonclient.utils import np_to_triton_dtype

from benchmarks.peers.interface import Peer, Request, Transport, http_get, last_values
from benchmarks.peers.v2_protocol import decode_grpc, encode_grpc
from benchmarks.peers.workloads import Array, Workload


class Triton(Peer):
    """The server with its watchdog; the response cache is off, since it would answer in place of the models."""

    name = "triton"
    title = "Triton"
    version_of = "nvidia-pytriton"
    protocols = {"http": "V2, binary extension", "grpc": "V2, raw contents"}  # noqa: RUF012  - a constant
    settings = "`tritone serve` of the exported configurations: 2 instances, dynamic batching without a delay"

    def command(self) -> list[str]:
        (repository,) = {path.parents[2] for path in self.models.values()}
        models = [part for name in self.models for part in ("--model", name)]
        ports = [
            *("--http-port", str(self.ports["http"])),
            *("--grpc-port", str(self.ports["grpc"])),
            *("--metrics-port", str(self.ports["other"])),
        ]
        serve = ["-m", "tritone_cli", "serve", "--repository", str(repository.resolve()), "--events", "off"]
        return [sys.executable, *serve, *models, *ports]

    def is_ready(self) -> bool:
        return http_get(self.ports["http"], "/v2/health/ready")[0] == 200

    def encode(self, transport: Transport, workload: Workload, inputs: Mapping[str, Array]) -> Request:
        if transport == "grpc":
            return encode_grpc(workload.model, inputs)
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array, binary_data=True)
            tensors.append(tensor)
        # Without a list of outputs, the server would return all of them as JSON.
        outputs = [triton.InferRequestedOutput(name, binary_data=True) for name in workload.outputs]
        body, n_json = triton.InferenceServerClient.generate_request_body(tensors, outputs=outputs)
        headers = {"Inference-Header-Content-Length": str(n_json), "Content-Type": "application/octet-stream"}
        return Request(f"/v2/models/{workload.model}/infer", body, headers)

    def decode(self, transport: Transport, body: bytes, workload: Workload) -> npt.NDArray[np.float32]:
        if transport == "grpc":
            return decode_grpc(body, workload.outputs)
        return last_values(body, workload)
