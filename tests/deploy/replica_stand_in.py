"""A stand-in for a Triton replica that logs the requests that reach it and crashes on a poisonous request.

    python replica_stand_in.py HOST HTTP_PORT GRPC_PORT LOG

HTTP and gRPC without any model: every request is answered, and each that arrived whole is a line of JSON in the log.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

POISON = b"poison-3141592"


def serve(host: str, http_port: int, grpc_port: int, log: Path) -> None:
    """Serve until the process ends."""
    import grpc

    lock = threading.Lock()

    def note(protocol: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        with lock, log.open("a") as file:
            file.write(json.dumps({"protocol": protocol, "path": path, "n": len(body), "headers": headers}) + "\n")
        if POISON in body:
            os._exit(8)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if not self.path.startswith("/v2/health"):
                note("http", self.path, b"", {name.lower(): value for name, value in self.headers.items()})
            self.answer()

        def do_POST(self) -> None:
            n_bytes = int(self.headers.get("content-length", 0))
            body = self.rfile.read(n_bytes)
            if len(body) == n_bytes:
                note("http", self.path, body, {name.lower(): value for name, value in self.headers.items()})
            self.answer()

        do_PUT = do_DELETE = do_PATCH = do_POST  # noqa: N815

        def answer(self) -> None:
            # In one piece: two would wait 40 ms for each other (Nagle's algorithm and delayed acknowledgements).
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            headers = {str(name): str(value) for name, value in details.invocation_metadata}

            def unary(body: bytes, _context: Any) -> bytes:
                note("grpc", details.method, body, headers)
                return b""

            def stream(bodies: Any, _context: Any) -> Any:
                for body in bodies:
                    note("grpc", details.method, body, headers)
                    yield b""

            if details.method.endswith("ModelStreamInfer"):
                return grpc.stream_stream_rpc_method_handler(stream)
            return grpc.unary_unary_rpc_method_handler(unary)

    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(8), options=options)
    server.add_generic_rpc_handlers((Methods(),))
    server.add_insecure_port(f"{host}:{grpc_port}")
    server.start()
    web = ThreadingHTTPServer((host, http_port), Handler)
    print("ready", flush=True)
    web.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
