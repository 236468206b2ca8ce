"""TLS of the gateway: its files are checked before the start, and read again after a change."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn

from tritone import TritoneError
from tritone.watched_files import WatchedFiles

_LOGGER: Final = logging.getLogger(__name__)
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"


class TlsFilesError(TritoneError):
    """Raised when a certificate, its key or the certificate authority of callers cannot be used."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a gateway with TLS.

    Attributes:
        cert: the gateway's certificate, and those of intermediate authorities.
        key: the key of the certificate, without a passphrase.
        client_ca: the authorities that must have issued the certificates of callers; None if callers need none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the TLS configuration of a server.

    Raises:
        TlsFilesError: a file cannot be read, is not PEM, or is encrypted; certificate and key do not belong together;
            the certificate has expired or is not yet valid.
    """
    _check_content(files.cert, _CERTIFICATE, "certificate")
    _check_content(files.key, _KEY, "key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key, password=lambda: _refuse_passphrase(files.key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFilesError(
                f"the TLS key {files.key} does not belong to the certificate {files.cert}: expected the key that it "
                f"was issued for; pass matching --tls-cert and --tls-key"
            ) from error
        raise TlsFilesError(
            f"the TLS certificate {files.cert} or its key {files.key} cannot be read: expected PEM files ({error})"
        ) from error
    if files.client_ca is not None:
        _check_content(files.client_ca, _CERTIFICATE, "certificate authority")
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            raise TlsFilesError(
                f"the TLS certificate authority {files.client_ca} cannot be read: expected a PEM file ({error})"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    _check_validity(context, files.cert)
    return context


class CertificateReloader:
    """Uses the current TLS files for each new connection, so that a renewed certificate needs no restart.

    Files that cannot be used, such as a certificate whose key is not yet replaced, are logged; the previous ones stay
    in use.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            TlsFilesError: as `server_context`.
        """
        self._files = files
        self._current: ssl.SSLContext | None = None
        self._problem = ""
        paths = [path for path in (files.cert, files.key, files.client_ca) if path is not None]
        self._watched = WatchedFiles(paths, self._read)
        self._watched.content()

    def context(self) -> ssl.SSLContext:
        """Return the configuration to listen with, which switches each connection to the current files."""
        context = self._watched.content()
        # Called for each handshake, with and without a server name in it.
        context.sni_callback = self._select
        return context

    def _select(self, connection: Any, _server_name: str | None, _context: ssl.SSLContext) -> None:
        context = self._watched.content()
        if connection.context is not context:
            connection.context = context

    def _read(self) -> ssl.SSLContext:
        try:
            context = server_context(self._files)
        except TlsFilesError as error:
            if self._current is None:
                raise
            if str(error) != self._problem:
                _LOGGER.error("the replaced TLS files cannot be used; the previous ones stay in use: %s", error)
            self._problem = str(error)
            return self._current
        if self._current is not None:
            _LOGGER.info("the TLS files were replaced; new connections use them")
        self._current, self._problem = context, ""
        return context


def reloading_context(config: uvicorn.Config, _default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return the TLS configuration of a worker, for `uvicorn.Config(ssl_context_factory=...)`."""
    if config.ssl_certfile is None or config.ssl_keyfile is None:
        raise ValueError("ssl_certfile and ssl_keyfile: expected both, got None")
    client_ca = None if config.ssl_ca_certs is None else Path(config.ssl_ca_certs)
    return CertificateReloader(TlsFiles(Path(config.ssl_certfile), Path(config.ssl_keyfile), client_ca)).context()


def _check_content(path: Path, marker: bytes, kind: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TlsFilesError(f"the TLS {kind} {path} cannot be read ({error.strerror})") from error
    if marker not in content:
        raise TlsFilesError(f"the TLS {kind} {path} cannot be used: expected a PEM file with a {kind}, got none in it")


def _check_validity(context: ssl.SSLContext, cert: Path) -> None:
    """Check the dates and the purpose of a server's certificate by a handshake in memory whose client trusts it."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.load_verify_locations(cert)
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (client, server, client):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise TlsFilesError(
            f"the TLS certificate {cert} cannot be used ({error.verify_message}): expected one that is valid now and "
            f"for a server; renew it"
        ) from error
    except ssl.SSLError as error:
        raise TlsFilesError(
            f"the TLS certificate {cert} cannot be used: the test handshake failed ({error})"
        ) from error


def _refuse_passphrase(key: Path) -> str:
    raise TlsFilesError(
        f"the TLS key {key} is encrypted: expected one without a passphrase; decrypt it with `openssl pkey -in {key}`"
    )
