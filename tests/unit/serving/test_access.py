"""Options that close a server, and its log as JSON: no server."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tritone_serving import OptionsError, ServerOptions
from tritone_serving.security.access import access_flags
from tritone_serving.server.logs import LogFollower, parsed

PEM = "-----BEGIN CERTIFICATE-----\n"


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    path = tmp_path / "x.pem"
    path.write_text(PEM)
    return path


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"api_key": "short"}, "8 characters"),
        ({"api_key": "has space in it"}, "none of space"),
        ({"api_key": "a=b,c:defgh"}, "none of space, '='"),
        ({"api_key": "ключключ"}, "ASCII"),
        ({"api_key": "the-same-secret", "admin_token": "the-same-secret"}, "two secrets"),
        ({"tls_cert": "pem"}, "both tls_cert and tls_key"),
        ({"tls_client_ca": "pem"}, "tls_client_ca: expected TLS"),
        ({"tls_cert": "pem", "tls_key": "none"}, "tls_key: expected a readable"),
        ({"tls_cert": "pem", "tls_key": "text"}, "tls_key: expected a PEM"),
        ({"http_host": " "}, "http_host"),
        ({"otlp_url": "localhost:4318"}, "4318/v1/traces"),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, pem: Path, given: dict[str, Any], part: str) -> None:
    (tmp_path / "text").write_text("no certificate")
    files = {"pem": pem, "none": tmp_path / "none", "text": tmp_path / "text"}
    with pytest.raises(OptionsError, match=part):
        ServerOptions(repository=tmp_path, **{name: files.get(value, value) for name, value in given.items()})


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    shown = repr(ServerOptions(repository=tmp_path, api_key="the-api-key", admin_token="the-admin-token"))  # noqa: S106
    assert "the-" not in shown


def test_with_tls_nothing_stands_open_beside_it(tmp_path: Path, pem: Path) -> None:
    tls = {"tls_cert": pem, "tls_key": pem}
    everywhere = "0.0.0.0"  # noqa: S104
    assert ServerOptions(repository=tmp_path, host=everywhere).plain_host == everywhere
    assert ServerOptions(repository=tmp_path, host=everywhere, **tls).plain_host == "127.0.0.1"
    assert ServerOptions(repository=tmp_path, host=everywhere, http_host="10.0.0.1", **tls).plain_host == "10.0.0.1"


def test_flags(tmp_path: Path, pem: Path) -> None:
    plain = access_flags(ServerOptions(repository=tmp_path), "the-token")
    assert plain == [
        f"--{flag}=model-repository,shared-memory,logging,trace:tritone-admin-token=the-token"
        for flag in ("http-restricted-api", "grpc-restricted-protocol")
    ]
    options = ServerOptions(repository=tmp_path, api_key="the-api-key", tls_cert=pem, tls_key=pem, tls_client_ca=pem)
    flags = access_flags(options, "the-token")
    assert "--http-restricted-api=inference,metadata,model-config,statistics:authorization=Bearer the-api-key" in flags
    assert flags[-2:] == ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={pem}"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", None),
        ("+-----+", None),
        ("| a | b |", None),
        (
            r"""2026-11-22T05:00:32Z E 11 infer.cc:7] "[request id: a-1] failed for model 'm': \"x\"\n" """.strip(),
            {
                "time": "2026-11-22T05:00:32Z", "level": "error", "logger": "triton", "pid": 11, "source": "infer.cc:7",
                "message": "[request id: a-1] failed for model 'm': \"x\"", "request_id": "a-1", "model": "m",
            },
        ),
        (
            "2026-11-22T05:00:32Z I 11 a.cc:7] not quoted",
            {
                "time": "2026-11-22T05:00:32Z", "level": "info", "logger": "triton", "pid": 11, "source": "a.cc:7",
                "message": "not quoted",
            },
        ),
    ],
)  # fmt: skip
def test_a_line_of_the_log(line: str, expected: dict[str, Any] | None) -> None:
    assert parsed(line) == expected


def test_a_log_is_followed_also_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log"
    got: list[str] = []
    path.write_text("one\ntw")
    follower = LogFollower(path, got.append)
    time.sleep(0.5)
    with path.open("a") as file:
        file.write("o\n")
    time.sleep(0.5)
    path.rename(tmp_path / "log.1")
    path.write_text("three\n")
    follower.close()
    assert [json.loads(line)["message"] for line in got] == ["one", "two", "three"]
