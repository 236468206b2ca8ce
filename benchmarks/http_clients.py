"""Closed-loop HTTP/1.1 clients with the same cost for any server: prepared bytes on persistent connections.

perf_analyzer supports only Triton, so that a comparison with another server needs its own load generator.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HttpLoad:
    """Results of a closed loop.

    Attributes:
        per_s: responses with status 200 per second.
        n_failed: other responses, and lost connections.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    n: int
    n_failed: int


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
    at = head.find(b"content-length:")
    n_body = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    while len(received) < end + 4 + n_body:
        received += _some(connection)
    return int(head.split(b" ", 2)[1]), bytes(received[end + 4 :])


def closed_loop(port: int, requests: Sequence[bytes], *, n_clients: int, seconds: float) -> HttpLoad:
    """Run clients that send their next request when the previous response has arrived."""
    times: list[list[float]] = [[] for _ in range(n_clients)]
    failed = [0] * n_clients
    gate = threading.Barrier(n_clients + 1)
    deadline_s = float("inf")

    def client(place: int) -> None:
        connection = connect(port)
        gate.wait()
        index = place
        while time.perf_counter() < deadline_s:
            began_s = time.perf_counter()
            try:
                status, _ = ask(connection, requests[index % len(requests)])
            except OSError:
                connection.close()
                status, connection = 0, connect(port)
            if status == 200:
                times[place].append(time.perf_counter() - began_s)
            else:
                failed[place] += 1
            index += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(place,)) for place in range(n_clients)]
    for thread in threads:
        thread.start()
    began_s = time.perf_counter()
    deadline_s = began_s + seconds
    gate.wait()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - began_s
    everything = np.array([each for some in times for each in some] or [np.nan])
    return HttpLoad(
        per_s=sum(map(len, times)) / took_s,
        p50_ms=1e3 * float(np.quantile(everything, 0.5)),
        p99_ms=1e3 * float(np.quantile(everything, 0.99)),
        n=sum(map(len, times)),
        n_failed=sum(failed),
    )


def _some(connection: socket.socket) -> bytes:
    some = connection.recv(1 << 18)
    if not some:
        raise ConnectionResetError("the server closed the connection")
    return some
