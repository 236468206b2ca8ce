"""TLS and mutual TLS: validation of the files, client certificates, and renewal without a restart."""

from __future__ import annotations

import http.client
import os
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.certificates import Certificates, make_certificates
from tests.support.gateways import gateway_process

from benchmarks.replica import libfaketime
from tritone import watched_files
from tritone_gateway import GatewaySettings
from tritone_gateway.server import GatewayStartError, serve
from tritone_gateway.tls import CertificateReloader, TlsFiles, TlsFilesError, server_context

EXPIRED, FUTURE = "-30d", "+30d"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def renewed(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of another authority."""
    return make_certificates(tmp_path_factory.mktemp("renewed"))


def self_signed(folder: Path, *options: str, clock: str | None = None) -> TlsFiles:
    """Make a certificate that is its own authority; `clock` is the difference of its maker's clock."""
    made = TlsFiles(folder / "own.pem", folder / "own.key")
    environment = dict(os.environ)
    if clock is not None:
        library = libfaketime()
        if library is None:
            pytest.skip("needs libfaketime")
        environment |= {"LD_PRELOAD": str(library), "FAKETIME": clock}
    command = [
        *(
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ),
        *("-subj", "/CN=localhost", "-keyout", made.key, "-out", made.cert, *options),
    ]
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=30)
    return made


def test_usable_files_are_accepted(files: Certificates, tmp_path: Path) -> None:
    assert server_context(TlsFiles(files.server_cert, files.server_key)).verify_mode == ssl.CERT_NONE
    mutual = server_context(TlsFiles(files.server_cert, files.server_key, files.ca))
    assert mutual.verify_mode == ssl.CERT_REQUIRED
    assert mutual.minimum_version >= ssl.TLSVersion.TLSv1_2
    chain = tmp_path / "chain.pem"
    chain.write_text(files.server_cert.read_text() + files.ca.read_text())
    server_context(TlsFiles(chain, files.server_key))
    server_context(self_signed(tmp_path))


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (("server_cert", "client_key", None), "does not belong to the certificate"),
        (("server_key", "server_cert", None), "expected a PEM file with a certificate, got none in it"),
        (("server_cert", "server_cert", None), "expected a PEM file with a key, got none in it"),
        (("server_cert", "server_key", "server_key"), "expected a PEM file with a certificate authority"),
        (("broken", "server_key", None), "cannot be read: expected PEM files"),
        (("server_cert", "broken_key", None), "cannot be read: expected PEM files"),
        (("server_cert", "server_key", "broken"), "cannot be read: expected a PEM file"),
        (("server_cert", "encrypted", None), "is encrypted: expected one without a passphrase"),
        (("absent", "server_key", None), "cannot be read (No such file or directory)"),
        (("folder", "server_key", None), "cannot be read (Is a directory)"),
    ],
)
def test_errors_name_the_unusable_file(
    files: Certificates, tmp_path: Path, names: tuple[str, str, str | None], part: str
) -> None:
    made = {"absent": tmp_path / "absent", "folder": tmp_path}
    for name, label in (("broken", "CERTIFICATE"), ("broken_key", "PRIVATE KEY")):
        made[name] = tmp_path / name
        made[name].write_text(f"-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n")
    made["encrypted"] = tmp_path / "encrypted"
    subprocess.run(
        ["openssl", "pkey", "-in", files.server_key, "-aes256", "-passout", "pass:secret", "-out", made["encrypted"]],
        check=True,
        capture_output=True,
    )
    cert, key, client_ca = (None if name is None else made.get(name) or getattr(files, name) for name in names)
    with pytest.raises(TlsFilesError) as caught:
        server_context(TlsFiles(cert, key, client_ca))
    assert part in str(caught.value)
    assert str(cert) in str(caught.value) or str(key) in str(caught.value) or str(client_ca) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "clock", "part"),
    [
        ((), EXPIRED, "certificate has expired"),
        ((), FUTURE, "certificate is not yet valid"),
        (("-addext", "extendedKeyUsage=clientAuth"), None, "certificate purpose"),
    ],
)
def test_a_certificate_that_callers_would_refuse_is_an_error(
    tmp_path: Path, options: tuple[str, ...], clock: str | None, part: str
) -> None:
    with pytest.raises(TlsFilesError) as caught:
        server_context(self_signed(tmp_path, *options, clock=clock))
    assert part in str(caught.value)


def test_the_gateway_does_not_start_with_unusable_files(files: Certificates, tmp_path: Path) -> None:
    settings = GatewaySettings(
        port=0, keys_file=tmp_path / "keys.json", tls_cert=files.server_cert, tls_key=files.client_key
    )
    with pytest.raises(GatewayStartError, match="does not belong to the certificate"):
        serve(settings)


def presented(context: ssl.SSLContext) -> bytes | None:
    """Return the certificate that a server presents, from a handshake in memory."""
    client_context = ssl.create_default_context()
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert(binary_form=True)


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def test_a_renewed_certificate_is_used_once_its_key_is_replaced(
    files: Certificates,
    renewed: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watched_files, "CHECK_INTERVAL_S", 0.0)
    used = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    shutil.copy(files.server_cert, used.cert)
    shutil.copy(files.server_key, used.key)
    context = CertificateReloader(used).context()
    assert presented(context) == der(files.server_cert)
    shutil.copy(renewed.server_cert, used.cert)
    assert presented(context) == der(files.server_cert)
    assert presented(context) == der(files.server_cert)
    assert caplog.text.count("the previous ones stay in use") == 1
    shutil.copy(renewed.server_key, used.key)
    assert presented(context) == der(renewed.server_cert)
    used.cert.unlink()
    assert presented(context) == der(renewed.server_cert)


def replace(used: TlsFiles, made: Certificates) -> None:
    """Write a server's certificate and key, and the authority of its callers, over the files of a gateway."""
    for source, target in ((made.server_cert, used.cert), (made.server_key, used.key), (made.ca, used.client_ca)):
        if target is not None:
            shutil.copy(source, target)


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def secure(request: pytest.FixtureRequest, files: Certificates, tmp_path: Path) -> Iterator[tuple[str, TlsFiles]]:
    """A gateway with mutual TLS, and its files."""
    used = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem")
    replace(used, files)
    options = ("--tls-cert", str(used.cert), "--tls-key", str(used.key), "--tls-client-ca", str(used.client_ca))
    workers = ("--workers", str(request.param))
    with gateway_process("localhost:1", tmp_path / "keys.json", *options, *workers) as url:
        yield url, used


def caller(authority: Certificates, own: Certificates | None) -> ssl.SSLContext:
    """Return the configuration of a caller that trusts one authority, with a certificate of the same or another one."""
    context = ssl.create_default_context(cafile=str(authority.ca))
    if own is not None:
        context.load_cert_chain(own.client_cert, own.client_key)
    return context


def status(url: str, context: ssl.SSLContext) -> int:
    with urllib.request.urlopen(f"{url}/livez", timeout=5, context=context) as response:  # noqa: S310
        return int(response.status)


@pytest.mark.slow
def test_callers_need_a_certificate_and_both_sides_are_renewed(
    secure: tuple[str, TlsFiles], files: Certificates, renewed: Certificates
) -> None:
    url, used = secure
    port = int(url.rpartition(":")[2])
    assert url.startswith("https://")
    assert status(url, caller(files, files)) == 200
    for context in (caller(files, None), caller(files, renewed), caller(renewed, files)):
        with pytest.raises(OSError):  # noqa: PT011 - as each version of OpenSSL and the moment of the alert have it
            status(url, context)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as plain:
        plain.request("GET", "/livez")
        with pytest.raises((http.client.BadStatusLine, ConnectionError)):
            plain.getresponse()

    with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=caller(files, files))) as kept:
        kept.request("GET", "/livez")
        assert kept.getresponse().read() == b'{"alive":true}'
        connection = kept.sock
        replace(used, renewed)
        time.sleep(1.2)  # longer than the interval between checks of the files
        for _ in range(8):  # each worker
            assert status(url, caller(renewed, renewed)) == 200
        with pytest.raises(OSError):  # noqa: PT011 - as above
            status(url, caller(renewed, files))
        kept.request("GET", "/livez")
        assert kept.getresponse().read() == b'{"alive":true}'
        assert kept.sock is connection


@pytest.mark.slow
def test_without_an_authority_callers_need_no_certificate(files: Certificates, tmp_path: Path) -> None:
    options = ("--tls-cert", str(files.server_cert), "--tls-key", str(files.server_key))
    with gateway_process("localhost:1", tmp_path / "keys.json", *options) as url:
        assert status(url, caller(files, None)) == 200
        with pytest.raises(OSError):  # noqa: PT011 - a certificate of an authority that the caller does not trust
            status(url, ssl.create_default_context(cafile=str(files.other_ca)))
