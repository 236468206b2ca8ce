"""Run the gateway: one or several worker processes of uvicorn behind one socket."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from tritone import TritoneError
from tritone_gateway.app import create_app
from tritone_gateway.logs import logging_config
from tritone_gateway.memory import return_freed_memory
from tritone_gateway.metrics import MULTIPROCESS_VARIABLE
from tritone_gateway.security.keys import KeyStore, default_keys_file
from tritone_gateway.security.rates import RateLimits
from tritone_gateway.settings import GatewaySettings
from tritone_gateway.tls import TlsFiles, TlsFilesError, reloading_context, server_context

SETTINGS_VARIABLE: Final = "TRITONE_GATEWAY_SETTINGS"
_BACKLOG: Final = 2_048
_DISCARDED_FOR_S: Final = 5.0
_MAX_JOINED_BYTES: Final = 65_536
_START_TIMEOUT_S: Final = 60.0
_TIMED_OUT: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GatewayStartError(TritoneError):
    """Raised when the gateway cannot start: the address is in use, or it would be open to everyone."""


class _JoinedWrites:
    """A transport that sends what is written in one turn of the event loop at once.

    uvicorn writes the headers and the body of a response separately, which costs the gateway and its client a system
    call each.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._n_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data before the event loop waits again."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._n_bytes += len(data)
        if self._n_bytes >= _MAX_JOINED_BYTES:  # the transport then pauses a writer that is too fast
            self._flush()

    def close(self) -> None:
        """Send what was written, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts, self._n_bytes = self._parts, [], 0
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))


class TimedProtocol(HttpToolsProtocol):
    """Closes connections whose request does not arrive in time, or whose response is not read.

    uvicorn bounds only the idle time between requests (https://github.com/Kludex/uvicorn/issues/157), so a client that
    sends a header a second would hold a connection forever. The time for the body of an accepted request is bounded by
    `Admission`; here, the body of a request that was answered early is discarded for some seconds at most.

    A caller that reads nothing for `send_timeout_s` while a response waits for it would otherwise keep the response's
    memory, its place among the requests at once, and the model of a stream, for as long as it likes.
    """

    _timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        joined: Any = _JoinedWrites(transport, self.loop)
        super().connection_made(joined)
        self._arm(self._header_timeout_s)

    def on_message_begin(self) -> None:
        """Wait for the headers."""
        super().on_message_begin()
        self._arm(self._header_timeout_s)

    def on_headers_complete(self) -> None:
        """Stop waiting."""
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop waiting."""
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the rest of a body that nobody reads."""
        super().on_response_complete()
        if self.cycle.more_body:
            self._arm(_DISCARDED_FOR_S)

    def pause_writing(self) -> None:
        """Wait for the caller to read."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """Stop waiting."""
        self._stop_awaiting_reading()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._disarm()
        self._stop_awaiting_reading()
        super().connection_lost(exc)

    @property
    def _header_timeout_s(self) -> float:
        return float(self.app_state.get("header_timeout_s", 10.0))

    def _arm(self, timeout_s: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(timeout_s, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _await_reading(self) -> None:
        n_unread = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(
            float(self.app_state.get("send_timeout_s", 60.0)), self._end_unread, n_unread
        )

    def _stop_awaiting_reading(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _end_unread(self, n_unread: int) -> None:
        """End the connection unless some of the response was read meanwhile."""
        if self.transport.get_write_buffer_size() < n_unread:
            self._await_reading()
        else:
            self._send_timer = None
            self.transport.abort()

    def _expire(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TIMED_OUT)
        self.transport.close()


def app_from_environment() -> FastAPI:
    """Return the application of a worker process."""
    return_freed_memory()
    return create_app(GatewaySettings.from_environment(os.environ[SETTINGS_VARIABLE]))


def serve(settings: GatewaySettings, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress are finished.

    Args:
        settings: how.
        on_ready: called from a thread with the URL when requests are answered.

    Raises:
        GatewayStartError: the address cannot be used, a certificate or the address of the store of rates is invalid, or
            other machines can connect, there are no keys and `allow_anonymous` is not set.
        MissingExtraError: there is a store of rates, but its client is not installed.
        ApiKeyError: the keys cannot be read.
    """
    if not settings.is_loopback and not settings.allow_anonymous:
        keys = KeyStore(settings.keys_file or default_keys_file())
        if not keys.has_keys():
            raise GatewayStartError(
                f"no API keys for a gateway that listens on {settings.host}: expected at least one key; create it with "
                f"`tritone keys create`, or pass --allow-anonymous on a private network"
            )
    _check(settings)
    listener = _bound(settings)
    host, port = listener.getsockname()[:2]
    url = f"{'https' if settings.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    folder = tempfile.mkdtemp(prefix="tritone-gateway-") if settings.workers > 1 else None
    os.environ[SETTINGS_VARIABLE] = settings.to_environment()
    if folder is not None:
        os.environ[MULTIPROCESS_VARIABLE] = folder
    try:
        config = _config(settings)
        if on_ready is not None:
            threading.Thread(target=_report, args=(url, settings, on_ready), daemon=True).start()
        if settings.workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        os.environ.pop(SETTINGS_VARIABLE, None)  # it may hold the API key of the models' server
        if folder is not None:
            os.environ.pop(MULTIPROCESS_VARIABLE, None)
            shutil.rmtree(folder, ignore_errors=True)


def _config(settings: GatewaySettings) -> uvicorn.Config:
    return uvicorn.Config(
        "tritone_gateway.server:app_from_environment",
        factory=True,
        http=TimedProtocol,
        ws="none",
        loop="uvloop",
        workers=settings.workers,
        backlog=_BACKLOG,
        log_config=logging_config(settings.log_format),
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        ssl_ca_certs=None if settings.tls_client_ca is None else str(settings.tls_client_ca),
        ssl_context_factory=None if settings.tls_cert is None else reloading_context,
    )


def _check(settings: GatewaySettings) -> None:
    """Check what workers would only log.

    Raises:
        GatewayStartError, MissingExtraError: as `serve`.
    """
    if settings.tls_cert is not None and settings.tls_key is not None:
        try:
            server_context(TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca))
        except TlsFilesError as error:
            raise GatewayStartError(str(error)) from error
    if settings.rate_store is not None:
        try:
            RateLimits(store=settings.rate_store)
        except ValueError as error:
            raise GatewayStartError(
                f"--rate-store cannot be used: expected an address such as valkey://localhost:6379 ({error})"
            ) from error


def _bound(settings: GatewaySettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise GatewayStartError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); choose another --host or --port"
        ) from error
    listener.set_inheritable(True)
    return listener


def _report(url: str, settings: GatewaySettings, on_ready: Callable[[str], None]) -> None:
    """Call `on_ready` when the gateway answers."""
    context = None
    if settings.tls_cert is not None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it asks itself
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(f"{url}/livez", timeout=1.0, context=context):  # noqa: S310 - our own address
                break
        except urllib.error.HTTPError:
            break
        except OSError as error:
            # The refusal of a caller without a certificate shows that something answers: an alert, or the end of the
            # connection with TLS 1.3, whose handshake is over before.
            reason = getattr(error, "reason", error)
            if settings.tls_client_ca is not None and isinstance(reason, ssl.SSLError | ConnectionResetError):
                break
            time.sleep(0.05)
    else:
        return
    on_ready(url)
