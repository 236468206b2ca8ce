from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritone import AsyncMusicClient, InvalidInputError, MusicClient
from tritone.endpoints import make_endpoint


@pytest.mark.parametrize(
    ("url", "whole", "tls"),
    [
        ("localhost:8001", "grpc://localhost:8001", False),
        ("localhost", "grpc://localhost:8001", False),
        ("grpc://10.0.0.1:9", "grpc://10.0.0.1:9", False),
        ("grpcs://music.example", "grpcs://music.example:443", True),
        ("http://localhost", "http://localhost:8000", False),
        ("https://music.example/triton/", "https://music.example:443/triton", True),
        ("http://[::1]:8000", "http://[::1]:8000", False),
        ("[::1]:8001", "grpc://[::1]:8001", False),
    ],
)
def test_addresses(url: str, whole: str, tls: bool) -> None:
    endpoint = make_endpoint(url)
    assert endpoint.url == whole
    assert endpoint.tls is tls


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x:1", "http://", "x:99999", "x:port", "http://x/?q=1", "http://x/#f", "a b:1", "grpc://x/path", 8001,
     "http://user:pw@x", "http://x/a b", "://", "http://x\r\nhost:1", "a" * 64, "a..b:1", "-%zz:1"],
)  # fmt: skip
def test_what_is_no_address(url: Any) -> None:
    with pytest.raises(InvalidInputError):
        MusicClient(url)
    with pytest.raises(InvalidInputError):
        AsyncMusicClient(url)


def test_the_key_is_sent_and_never_shown() -> None:
    endpoint = make_endpoint("x:1", api_key="s3cret", headers={"X-Team": "a"})
    assert endpoint.headers == {"authorization": "Bearer s3cret", "x-team": "a"}
    assert "s3cret" not in repr(endpoint)
    with MusicClient("x:1", api_key="s3cret") as music:
        assert "s3cret" not in repr(music)


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": ""},
        {"api_key": "a\nb"},
        {"api_key": "ключ"},
        {"headers": {"a b": "c"}},
        {"headers": [("a", "b")]},
        {"headers": {"a": "b\r\nc: d"}},
        {"headers": {"a": 1}},
        {"api_key": "a", "headers": {"Authorization": "b"}},
        {"ca_file": __file__},  # not encrypted
        {"ca_file": b"a.pem"},
        {"ca_file": "a" * 5_000},
        {"client_key_file": True},
        {"client_cert_file": np.array([1, 2])},
    ],
)
def test_what_cannot_go_with_a_request(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        make_endpoint("localhost:8001", **options)


def test_tls_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        make_endpoint("grpcs://x:1", ca_file=tmp_path / "none.pem")
    with pytest.raises(InvalidInputError):
        make_endpoint("https://x:1", client_cert_file=__file__)
    with pytest.raises(InvalidInputError):
        MusicClient("https://x:1", ca_file=__file__)
    with pytest.raises(InvalidInputError):
        AsyncMusicClient("https://x:1", client_cert_file=__file__, client_key_file=__file__)
