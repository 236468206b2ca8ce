"""Run the gateway: one or several worker processes of uvicorn that share one socket."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Final

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from tritone import TritoneError
from tritone_gateway.app import create_app
from tritone_gateway.http_protocol import TimedProtocol
from tritone_gateway.logs import logging_config
from tritone_gateway.memory import return_freed_memory
from tritone_gateway.metrics import MULTIPROCESS_VARIABLE
from tritone_gateway.security.keys import KeyStore, default_keys_file
from tritone_gateway.security.rates import RateLimits
from tritone_gateway.settings import GatewaySettings
from tritone_gateway.tls import TlsFiles, TlsFilesError, reloading_context, server_context

SETTINGS_VARIABLE: Final = "TRITONE_GATEWAY_SETTINGS"
_BACKLOG: Final = 2_048
_START_TIMEOUT_S: Final = 60.0


class GatewayStartError(TritoneError):
    """Raised when the gateway cannot start: an address or a TLS file cannot be used, or there are no API keys."""


def app_from_environment() -> FastAPI:
    """Return the application of a worker process."""
    return_freed_memory()
    return create_app(GatewaySettings.from_environment(os.environ[SETTINGS_VARIABLE]))


def serve(settings: GatewaySettings, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress are finished.

    Args:
        settings: configuration of the gateway.
        on_ready: called in another thread with the URL, once requests are served.

    Raises:
        GatewayStartError: the address cannot be used, a TLS file or the address of the rate store is invalid, or the
            address is not a loopback address, there are no keys and `allow_anonymous` is not set.
        MissingExtraError: the client of the rate store is not installed.
        ApiKeyError: the keys cannot be read.
    """
    if not settings.is_loopback and not settings.allow_anonymous:
        keys = KeyStore(settings.keys_file or default_keys_file())
        if not keys.has_keys():
            raise GatewayStartError(
                f"no API keys for a gateway that listens on {settings.host}: expected at least one key; create one "
                f"with `tritone keys create`, or pass --allow-anonymous on a private network"
            )
    _check_settings(settings)
    listener = _bind(settings)
    host, port = listener.getsockname()[:2]
    url = f"{'https' if settings.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    folder = tempfile.mkdtemp(prefix="tritone-gateway-") if settings.workers > 1 else None
    os.environ[SETTINGS_VARIABLE] = settings.to_environment()
    if folder is not None:
        os.environ[MULTIPROCESS_VARIABLE] = folder
    try:
        config = _config(settings)
        if on_ready is not None:
            threading.Thread(target=_report_ready, args=(url, settings, on_ready), daemon=True).start()
        if settings.workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        os.environ.pop(SETTINGS_VARIABLE, None)  # it may contain the API key of the models' server
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


def _check_settings(settings: GatewaySettings) -> None:
    """Check settings whose errors would otherwise appear only in the log of a worker.

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


def _bind(settings: GatewaySettings) -> socket.socket:
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


def _report_ready(url: str, settings: GatewaySettings, on_ready: Callable[[str], None]) -> None:
    """Call `on_ready` when the gateway responds."""
    context = None
    if settings.tls_cert is not None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # a request to the gateway itself
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(f"{url}/livez", timeout=1.0, context=context):  # noqa: S310 - our own address
                break
        except urllib.error.HTTPError:
            break
        except OSError as error:
            # With mutual TLS, the refusal of a caller without a certificate shows that the gateway runs: a TLS alert,
            # or a closed connection with TLS 1.3, whose handshake is complete by then.
            reason = getattr(error, "reason", error)
            if settings.tls_client_ca is not None and isinstance(reason, ssl.SSLError | ConnectionResetError):
                break
            time.sleep(0.05)
    else:
        return
    on_ready(url)
