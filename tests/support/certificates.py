"""Certificates made for one test, with the openssl program."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, a server's certificate (music.example, localhost, 127.0.0.1) from it, a client's."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path
    other_ca: Path


def make_certificates(folder: Path) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program")
    for name in ("ca", "other"):
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", f"/CN=tritone test {name}", "-keyout", str(folder / f"{name}.key"),
            "-out", str(folder / f"{name}.pem"),
        )  # fmt: skip
    for name in ("server", "client"):
        alternatives = folder / f"{name}.ext"
        alternatives.write_text("subjectAltName=DNS:music.example,DNS:localhost,IP:127.0.0.1\n")
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.csr"),
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", str(folder / f"{name}.csr"), "-CA", str(folder / "ca.pem"),
            "-CAkey", str(folder / "ca.key"), "-CAcreateserial", "-days", "2", "-extfile", str(alternatives),
            "-out", str(folder / f"{name}.pem"),
        )  # fmt: skip
    names = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key", "other.pem")
    return Certificates(*(folder / name for name in names))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
