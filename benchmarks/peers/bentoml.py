"""BentoML. Services of its present API have no gRPC; `bentoml serve-grpc` is for those of the API before 1.2."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.peers.interface import SERVICES, Peer, Request, Transport, http_get
from benchmarks.peers.workloads import Array, Workload


class BentoML(Peer):
    """Two worker processes that share a socket."""

    name = "bentoml"
    title = "BentoML"
    version_of = "bentoml"
    requirements = "bentoml.txt"
    settings = "2 workers of 1 thread, asynchronous API on bytes, no adaptive batching, metrics and access log off"

    def command(self) -> list[str]:
        serve = ["-m", "bentoml", "serve", "bentoml_service:Models", "--working-dir", str(SERVICES)]
        return [str(self.python), *serve, "--host", "127.0.0.1", "--port", str(self.ports["http"])]

    def environment(self) -> dict[str, str]:
        return {"BENTOML_HOME": str(self.folder), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": str(SERVICES)}

    def is_ready(self) -> bool:
        return http_get(self.ports["http"], "/readyz")[0] == 200

    def encode(self, transport: Transport, workload: Workload, inputs: Mapping[str, Array]) -> Request:
        raw = super().encode(transport, workload, inputs)
        return Request("/infer", raw.body, {**raw.headers, "Model": workload.model})
