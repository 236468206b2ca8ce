"""Triton, started by `tritone serve` with the configurations that `tritone export` wrote."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from benchmarks.peers.interface import Peer, PeerError, Request, Transport, http_get, last_values
from benchmarks.peers.v2_protocol import decode_grpc, encode_grpc
from benchmarks.peers.workloads import Array, Workload
from benchmarks.triton_http import infer_call
from tritone.audio import to_pcm16
from tritone.constants import GENRE_MODEL
from tritone_training.kinds.genre_cnn.declaration import PCM16

COMPANION = PCM16.name


class Triton(Peer):
    """The server with its watchdog; the response cache is off, since it would answer in place of the models."""

    name = "triton"
    title = "Triton"
    version_of = "nvidia-pytriton"
    protocols = {"http": "V2, binary extension", "grpc": "V2, raw contents"}  # noqa: RUF012  - a constant
    settings = "`tritone serve` of the exported configurations: 2 instances, dynamic batching without a delay"

    def repository(self) -> Path:
        """Return the folder that is served."""
        (folder,) = {path.parents[2] for path in self.models.values()}
        return folder.resolve()

    def command(self) -> list[str]:
        models = [part for name in self.models for part in ("--model", name)]
        ports = [
            *("--http-port", str(self.ports["http"])),
            *("--grpc-port", str(self.ports["grpc"])),
            *("--metrics-port", str(self.ports["other"])),
        ]
        serve = ["-m", "tritone_cli", "serve", "--repository", str(self.repository()), "--events", "off"]
        return [sys.executable, *serve, *models, *ports]

    def is_ready(self) -> bool:
        return http_get(self.ports["http"], "/v2/health/ready")[0] == 200

    def encode(self, transport: Transport, workload: Workload, inputs: Mapping[str, Array]) -> Request:
        if transport == "grpc":
            return encode_grpc(workload.model, inputs)
        return Request(*infer_call(workload.model, inputs, workload.outputs))

    def decode(self, transport: Transport, body: bytes, workload: Workload) -> npt.NDArray[np.float32]:
        if transport == "grpc":
            return decode_grpc(body, workload.outputs)
        return last_values(body, workload)


class TritonInt16(Triton):
    """The same with the samples as `MusicClient` sends them: as 16-bit integers, to the companion of `genre_cnn`."""

    name = "triton-int16"
    title = "Triton, 16-bit samples"
    only = frozenset({GENRE_MODEL})

    def command(self) -> list[str]:
        return [*super().command(), "--model", COMPANION]

    def prepare(self) -> None:
        if not (self.repository() / COMPANION).is_dir():
            raise PeerError(f"{self.repository()}: expected {COMPANION}, got none; run `tritone export {GENRE_MODEL}`")

    def encode(self, transport: Transport, workload: Workload, inputs: Mapping[str, Array]) -> Request:
        (windows,) = inputs.values()
        whole = to_pcm16(list(windows))
        assert whole is not None, "the windows are within full scale"
        return super().encode(transport, replace(workload, model=COMPANION), {"audio": whole})


class TritonWithoutPolicies(Triton):
    """The same without what `tritone export` writes about queues: priorities, and limits of their size and time.

    With any of these, Triton 2.51 does not prefetch: it forms the next batch only when an instance waits for it, and a
    wake-up can be lost, after which requests wait for half a second. See core/pull/237 and server/issues/8870 in
    github.com/triton-inference-server.
    """

    name = "triton-no-policies"
    title = "Triton without queue policies"
    settings = "as Triton, but without priorities, queue limits and time limits"

    def repository(self) -> Path:
        return self.folder / "models"

    def prepare(self) -> None:
        for name in self.models:
            copy = self.repository() / name
            shutil.copytree(super().repository() / name, copy, dirs_exist_ok=True)
            config = text_format.Parse((copy / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
            config.dynamic_batching.CopyFrom(model_config_pb2.ModelDynamicBatching())
            (copy / "config.pbtxt").write_text(text_format.MessageToString(config))
