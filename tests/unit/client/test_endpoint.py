from __future__ import annotations

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
def test_invalid_addresses(url: Any) -> None:
    for client in (MusicClient, AsyncMusicClient):
        with pytest.raises(InvalidInputError) as caught:
            client(url)
        assert caught.value.argument == "url"


def test_the_key_is_sent_and_never_shown() -> None:
    endpoint = make_endpoint("x:1", api_key="s3cret", headers={"X-Team": "a"})
    assert endpoint.headers == {"authorization": "Bearer s3cret", "x-team": "a"}
    assert "s3cret" not in repr(endpoint)
    with MusicClient("x:1", api_key="s3cret") as music:
        assert "s3cret" not in repr(music)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"api_key": ""}, None),
        ({"api_key": "a\nb"}, None),
        ({"api_key": "ключ"}, None),
        ({"headers": {"a b": "c"}}, None),
        ({"headers": [("a", "b")]}, None),
        ({"headers": {"a": "b\r\nc: d"}}, None),
        ({"headers": {"a": 1}}, None),
        ({"api_key": "a", "headers": {"Authorization": "b"}}, "conflict"),
        ({"ca_file": __file__}, "conflict"),  # the address is not encrypted
        ({"ca_file": b"a.pem"}, None),
        ({"ca_file": "a" * 5_000}, "missing"),
        ({"client_key_file": True}, None),
        ({"client_cert_file": np.array([1, 2])}, None),
        ({"client_cert_file": __file__, "client_key_file": __file__}, "conflict"),
    ],
)
def test_keys_headers_and_files_that_cannot_be_used(options: dict[str, Any], reason: str | None) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make_endpoint("localhost:8001", **options)
    assert (caught.value.argument, caught.value.reason) == (next(iter(options)), reason)


@pytest.mark.parametrize("client", [MusicClient, AsyncMusicClient])
@pytest.mark.parametrize(
    ("files", "argument", "reason"),
    [
        ({"ca_file": "none.pem"}, "ca_file", "missing"),
        ({"client_cert_file": __file__}, "client_key_file", "missing"),
        ({"client_key_file": __file__}, "client_cert_file", "missing"),
        ({"ca_file": __file__}, "ca_file", "not_pem"),
        ({"client_cert_file": __file__, "client_key_file": __file__}, "client_cert_file", "not_pem"),
    ],
)
def test_tls_files_that_cannot_be_used(client: Any, files: dict[str, str], argument: str, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        client("https://x:1", **files)
    assert (caught.value.argument, caught.value.reason) == (argument, reason)
