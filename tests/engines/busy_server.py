"""A server in this process that processes a number of requests at once, and refuses the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.unit.client.tiny_server import TinyHandler, TinyHttpServer


class BusyServer(TinyHttpServer):
    """Refuses requests as Triton does when the queue of a model is full.

    Attributes:
        n_parallel: inference requests at once that are processed.
        n_refused: refused requests.
        most: largest number of inference requests at once, refused ones included.
    """

    def __init__(self, n_parallel: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.n_parallel = n_parallel
        self.n_refused = self.most = 0
        self.n_running = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(TinyHandler):
    server: BusyServer

    def do_POST(self) -> None:  # noqa: N802
        with self.server.lock:
            self.server.n_running += 1
            self.server.most = max(self.server.most, self.server.n_running)
            is_refused = self.server.n_running > self.server.n_parallel
            self.server.n_refused += is_refused
        try:
            if is_refused:
                self.rfile.read(int(self.headers["content-length"]))
                self.answer({"error": "Exceeds maximum queue size"}, status=503)
            else:
                super().do_POST()
        finally:
            with self.server.lock:
                self.server.n_running -= 1


@contextmanager
def busy_server(n_parallel: int) -> Iterator[BusyServer]:
    """Start a server; stop it after the block."""
    with BusyServer(n_parallel) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
