"""LitServe, which has no gRPC."""

from __future__ import annotations

from benchmarks.peers.interface import SERVICES, Peer, http_get


class LitServe(Peer):
    """HTTP processes in front of two worker processes for each model."""

    name = "litserve"
    title = "LitServe"
    version_of = "litserve"
    requirements = "litserve.txt"
    settings = "2 workers of 1 thread for each model, 2 API servers, fast_queue (ZeroMQ), no batching"

    def command(self) -> list[str]:
        return [str(self.python), str(SERVICES / "litserve_service.py"), "--port", str(self.ports["http"])]

    def is_ready(self) -> bool:
        return http_get(self.ports["http"], "/health")[0] == 200
