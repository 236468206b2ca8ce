"""HTTP/1.1 clients with the same cost for any server: prepared bytes on persistent connections.

perf_analyzer supports only Triton, so that a comparison with another server needs its own load generator.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

_LENGTH = b"\r\ncontent-length:"  # with the line break, since Triton has `Inference-Header-Content-Length` too


class HttpClient:
    """A connection to a port of this machine that sends prepared requests in turn."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        """Connect.

        Raises:
            OSError: the server accepts no connection.
        """
        self._port, self._requests = port, requests
        self._connection: socket.socket | None = connect(port)

    def call(self, index: int) -> bool:
        """Send a request and return whether the status of the response is 200; after a failure, connect again."""
        try:
            if self._connection is None:
                self._connection = connect(self._port)
            status, _ = ask(self._connection, self._requests[index % len(self._requests)])
        except OSError:
            self.close()
            return False
        return status == 200

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def request_bytes(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Return a complete POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def connect(port: int) -> socket.socket:
    """Return a connection to a port of this machine."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """Send a request and return status and body of the response.

    Raises:
        OSError: the connection was lost, or no data arrived for 30 s.
    """
    connection.sendall(request)
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _some(connection)
    head = bytes(received[:end]).lower()
    at = head.find(_LENGTH)
    n_body = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    while len(received) < end + 4 + n_body:
        received += _some(connection)
    return int(head.split(b" ", 2)[1]), bytes(received[end + 4 :])


def _some(connection: socket.socket) -> bytes:
    some = connection.recv(1 << 18)
    if not some:
        raise ConnectionResetError("the server closed the connection")
    return some
