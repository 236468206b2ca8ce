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
from tritone_gateway.metrics import MULTIPROCESS_VARIABLE
from tritone_gateway.security.keys import KeyStore, default_keys_file
from tritone_gateway.settings import GatewaySettings

SETTINGS_VARIABLE: Final = "TRITONE_GATEWAY_SETTINGS"
_BACKLOG: Final = 2_048
_DISCARDED_FOR_S: Final = 5.0
_START_TIMEOUT_S: Final = 60.0
_TIMED_OUT: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GatewayStartError(TritoneError):
    """Raised when the gateway cannot start: the address is in use, or it would be open to everyone."""


class TimedProtocol(HttpToolsProtocol):
    """Closes connections whose request does not arrive in time.

    uvicorn bounds only the idle time between requests (https://github.com/Kludex/uvicorn/issues/157), so a client that
    sends a header a second would hold a connection forever. The time for the body of an accepted request is bounded by
    `Admission`; here, the body of a request that was answered early is discarded for some seconds at most.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
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

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._disarm()
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

    def _expire(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TIMED_OUT)
        self.transport.close()


def app_from_environment() -> FastAPI:
    """Return the application of a worker process."""
    return create_app(GatewaySettings.from_environment(os.environ[SETTINGS_VARIABLE]))


def serve(settings: GatewaySettings, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress are finished.

    Args:
        settings: how.
        on_ready: called from a thread with the URL when requests are answered.

    Raises:
        GatewayStartError: the address cannot be used, a certificate is invalid, or other machines can connect, there
            are no keys and `allow_anonymous` is not set.
        ApiKeyError: the keys cannot be read.
    """
    if not settings.is_loopback and not settings.allow_anonymous:
        keys = KeyStore(settings.keys_file or default_keys_file())
        if not keys.has_keys():
            raise GatewayStartError(
                f"no API keys for a gateway that listens on {settings.host}: expected at least one key; create it with "
                f"`tritone keys create`, or pass --allow-anonymous on a private network"
            )
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
    try:
        config = uvicorn.Config(
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
            ssl_cert_reqs=ssl.CERT_NONE if settings.tls_client_ca is None else ssl.CERT_REQUIRED,
        )
        if settings.tls_cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # workers would only log what is wrong
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
            if settings.tls_client_ca is not None:
                context.load_verify_locations(settings.tls_client_ca)
    except (ssl.SSLError, OSError) as error:
        raise GatewayStartError(f"the certificate cannot be used: expected PEM files ({error})") from error
    return config


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
        except ssl.SSLError:  # a client certificate is required, so something answers
            break
        except OSError as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLError):
                break
            time.sleep(0.05)
    else:
        return
    on_ready(url)
