"""HTTP transport for threads, based on the standard library.

tritonclient's HTTP client is not used: it is based on gevent, serves one thread only, leaks a gevent hub for each
thread that ends, and limits the wait for each packet instead of the whole call.
"""

from __future__ import annotations

import http.client
import io
import queue
import select
import socket
import threading
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from tritone.endpoints import Endpoint
from tritone.exceptions import ClientError
from tritone.messages import InferResponse, Request, Response, StreamRequest
from tritone.processes import PerProcess
from tritone.retry import Deadline
from tritone.transports import http_wire as wire
from tritone.transports.protocol import no_streaming

N_IDLE_MAX: Final = 16  # connections kept for the next call


class HttpTransport:
    """Sends requests over a pool of connections; each call uses one alone, so threads never share a socket."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._tls = endpoint.ssl_context() if endpoint.tls else None
        self._idle = PerProcess(_Idle)  # a forked child never uses its parent's sockets, nor a lock that may be held
        self._closed = False

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """See `Transport.handle`."""
        deadline = Deadline(timeout_s)
        progress = _Progress()
        try:
            replies = [self._exchange(wire.first_call(request, self._endpoint), deadline, progress)]
            if (call := wire.second_call(request, replies[0], self._endpoint)) is not None:
                replies.append(self._exchange(call, deadline, progress))
            return wire.read(request, replies)
        except Exception as error:
            raise wire.translated(error, request, self._endpoint, timeout_s, was_sent=progress.was_sent) from error

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Generator[InferResponse, None, None]:
        """See `Transport.stream`; raises, because Triton does not stream over HTTP."""
        raise no_streaming(self._endpoint, request)

    def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        idle = self._idle.get()
        with idle.lock:
            connections = list(idle.connections)
            idle.connections.clear()
        for connection in connections:
            connection.close()

    def _exchange(self, call: wire.Call, deadline: Deadline, progress: _Progress) -> wire.Reply:
        progress.was_sent = False
        connection = self._taken()
        try:
            connection.deadline = deadline
            connection.request(call.method, call.path, body=call.body or None, headers=dict(call.headers))
            progress.was_sent = True
            response = connection.getresponse()
            body = response.read()
            headers = {name.lower(): value for name, value in response.getheaders()}
        except BaseException:  # the response may still arrive on it
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._put_back(connection)
        return wire.Reply(response.status, headers, body)

    def _taken(self) -> _Connection:
        if self._closed:
            raise ClientError("this client is closed; create a new one", reason="closed")
        idle = self._idle.get()
        with idle.lock:
            while idle.connections:
                connection = idle.connections.pop()  # the most recently used one is the most likely to be open
                if connection.is_quiet():
                    return connection
                connection.close()
        return _Connection(self._endpoint, self._tls)

    def _put_back(self, connection: _Connection) -> None:
        idle = self._idle.get()
        with idle.lock:
            if not self._closed and len(idle.connections) < N_IDLE_MAX:
                idle.connections.append(connection)
                return
        connection.close()


@dataclass
class _Idle:
    """Connections that no call is using."""

    connections: deque[_Connection] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class _Progress:
    """Progress of a request."""

    was_sent: bool = False


class _Connection(http.client.HTTPConnection):
    """An HTTP connection that applies the deadline of the current call to every socket operation."""

    deadline: Deadline

    def __init__(self, endpoint: Endpoint, tls: Any) -> None:
        super().__init__(endpoint.host, endpoint.port)
        self._tls = tls

    def connect(self) -> None:
        """Connect to the first address of the host that accepts the connection."""
        error: OSError | None = None
        for family, kind, protocol, _, address in _addresses(self.host, self.port, self.deadline):
            plain = socket.socket(family, kind, protocol)
            try:
                plain.settimeout(_left_s(self.deadline))
                plain.connect(address)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain.settimeout(_left_s(self.deadline))
                secured = self._tls.wrap_socket(plain, server_hostname=self.host) if self._tls else plain
                self.sock: Any = _TimedSocket(secured, self)
                return
            except OSError as failure:
                plain.close()
                error = failure
        raise error or OSError(f"host name {self.host} has no address")

    def is_quiet(self) -> bool:
        """Return whether an idle connection is usable: readable data would be its end or an unexpected response."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poll.poll(0)


class _TimedSocket:
    """A socket that applies a deadline to a whole call; the timeout of a plain socket restarts with each packet."""

    def __init__(self, sock: socket.socket, connection: _Connection) -> None:
        self._sock = sock
        self._connection = connection

    def sendall(self, data: memoryview | bytes) -> None:
        left = memoryview(data).cast("B")
        while left:  # `sendall` of a TLS socket would apply the timeout to each record
            self._sock.settimeout(_left_s(self._connection.deadline))
            left = left[self._sock.send(left) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._connection))

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, connection: _Connection) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile(
            "rb", buffering=0
        )  # keeps the socket open for a response that ends with the connection
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left_s(self._connection.deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _addresses(host: str, port: int, deadline: Deadline) -> list[Any]:
    """Return the addresses of a host name; a thread resolves it, because `getaddrinfo` has no timeout."""
    with suppress(OSError):  # an IP address needs neither resolver nor thread
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    found: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            found.put(error)

    threading.Thread(target=resolve, name="tritone-resolver", daemon=True).start()
    try:
        result = found.get(timeout=_left_s(deadline))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(result, Exception):
        raise result
    return result


def _left_s(deadline: Deadline) -> float:
    left_s = deadline.left_s()
    if left_s <= 0:  # a socket timeout of 0 means non-blocking
        raise TimeoutError
    return left_s
