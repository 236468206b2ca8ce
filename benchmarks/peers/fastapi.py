"""FastAPI, uvicorn and ONNX Runtime, as one writes it by hand: plain, and tuned to one thread a worker."""

from __future__ import annotations

from benchmarks.peers.interface import N_WORKERS, SERVICES, Peer, http_get


class FastApi(Peer):
    """Two workers with ONNX Runtime's default of a thread for each core."""

    name = "fastapi-plain"
    title = "FastAPI, plain"
    version_of = "fastapi"
    settings = "2 workers, uvloop, httptools, a thread per core in each worker, the model runs on the event loop"
    n_threads = 0

    def prepare(self) -> None:
        self._workers: set[bytes] = set()

    def command(self) -> list[str]:
        program = SERVICES / "fastapi_service.py"
        return [str(self.python), str(program), "--port", str(self.ports["http"]), "--workers", str(N_WORKERS)]

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(SERVICES)}  # the workers import the program by its name

    def is_ready(self) -> bool:
        # Any worker may answer, with its process id.
        status, body = http_get(self.ports["http"], "/ready")
        if status == 200:
            self._workers.add(body)
        return len(self._workers) == N_WORKERS


class TunedFastApi(FastApi):
    """One thread in each of the two workers."""

    name = "fastapi-tuned"
    title = "FastAPI, tuned"
    settings = "2 workers of 1 thread, uvloop, httptools, the model runs on the event loop"
    n_threads = 1
