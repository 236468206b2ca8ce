"""TLS of the gateway: its files are checked before the start, and read again when they are replaced."""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn

from tritone import TritoneError

_LOGGER: Final = logging.getLogger(__name__)
REREAD_S: Final = 1.0
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
        client_ca: the authorities that callers' certificates must come from; None if callers need no certificate.
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
    """Gives each new connection the present files, so that a renewed certificate needs no restart.

    Files that cannot be used, such as a certificate whose key is not yet replaced, are logged; the previous ones stay.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            TlsFilesError: as `server_context`.
        """
        self._files = files
        self._stamp = self._file_stamp()
        self._checked_s = time.monotonic()
        self._current = server_context(files)

    def context(self) -> ssl.SSLContext:
        """Return the configuration to listen with, which switches each connection to that of the present files."""
        context = self._current
        # Called for each handshake, with and without a server name in it.
        context.sni_callback = self._select
        return context

    def _select(self, connection: Any, _server_name: str | None, _context: ssl.SSLContext) -> None:
        if time.monotonic() - self._checked_s >= REREAD_S:
            self._refresh()
        if connection.context is not self._current:
            connection.context = self._current

    def _refresh(self) -> None:
        self._checked_s = time.monotonic()
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._current = server_context(self._files)
        except TlsFilesError as error:
            _LOGGER.error("the replaced TLS files cannot be used; the previous ones stay in use: %s", error)
        else:
            _LOGGER.info("the TLS files were replaced; new connections use them")

    def _file_stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp_of(path) for path in (self._files.cert, self._files.key, self._files.client_ca))


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
    """Check the dates and the purpose of a server's certificate, by a handshake in memory in which it is trusted."""
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


def _stamp_of(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = None if path is None else path.stat()
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
