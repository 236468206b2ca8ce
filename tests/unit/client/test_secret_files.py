"""Keys in files: read again after a change, kept while the file cannot be used, and shown nowhere."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from tests.unit.client.recommenders import FakeRecommender

from tritone import InferRequest, InvalidInputError, MusicClient, watched_files
from tritone.endpoints import Endpoint, make_endpoints
from tritone.secret_files import SecretFile
from tritone.transports import grpc_wire, http_wire
from tritone.watched_files import WatchedFiles

FIRST, SECOND = "first-" + "1" * 32, "second-" + "2" * 32
KEY_HEADER = "tritone-service-key"
REQUEST = InferRequest("recommender", "1", {}, ())


@pytest.fixture(autouse=True)
def _checked_at_each_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_files, "CHECK_INTERVAL_S", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret.key"
    path.write_text(f"{FIRST}\n")
    return path


def sent(endpoint: Endpoint) -> tuple[str | None, str | None]:
    """Return the key that both protocols send."""
    over_grpc = dict(grpc_wire.metadata_for(REQUEST, endpoint))
    assert over_grpc.get("triton-grpc-protocol-authorization") == over_grpc.get("authorization")
    return http_wire.first_call(REQUEST, endpoint).headers.get("authorization"), over_grpc.get("authorization")


def test_a_replaced_api_key_is_sent_with_the_next_request(file: Path) -> None:
    endpoints = make_endpoints("grpc://a:1,grpc://b:1", api_key_file=SecretFile("api_key", file), headers={"x-a": "b"})
    assert [sent(each) for each in endpoints] == [(f"Bearer {FIRST}",) * 2] * 2
    file.write_text(SECOND)
    assert [sent(each) for each in endpoints] == [(f"Bearer {SECOND}",) * 2] * 2
    assert FIRST not in repr(endpoints)
    assert SECOND not in repr(endpoints)


def test_a_replaced_service_key_is_sent_with_requests_about_users(file: Path) -> None:
    model = FakeRecommender()
    with MusicClient(transport=model, service_key_file=file) as music:
        music.recommend("42")
        file.write_text(SECOND)
        music.recommend("42")
        music.recommend(history=["track-1"])
        music.recommend("42", user_token="own.own.own")  # noqa: S106
        shown = repr(music) + repr(music._credentials)
    headers = [dict(request.headers) for request in model.requests]
    assert headers == [{KEY_HEADER: FIRST}, {KEY_HEADER: SECOND}, {}, {"tritone-user-token": "own.own.own"}]
    assert FIRST not in shown
    assert SECOND not in shown


def test_a_link_that_leads_elsewhere_is_noticed(tmp_path: Path) -> None:
    """Kubernetes replaces mounted secrets this way, so neither time nor size need to differ."""
    link = tmp_path / "key"
    for name, content in (("old", FIRST), ("new", FIRST.replace("1", "3"))):
        (tmp_path / name).write_text(content)
        os.utime(tmp_path / name, (1, 1))
    link.symlink_to("old")
    found = SecretFile("api_key", link)
    assert found.secret() == FIRST
    (tmp_path / "other").symlink_to("new")
    (tmp_path / "other").replace(link)
    assert found.secret() == FIRST.replace("1", "3")


def test_a_file_that_appears_later_is_used(tmp_path: Path) -> None:
    found = SecretFile("service_key", tmp_path / "later" / "service.key")
    assert found.secret() is None
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "service.key").write_text(FIRST)
    assert found.secret() == FIRST


@pytest.mark.parametrize("content", [None, "", " \n", "two words", "line\nbreak", "ключ", "x" * 5_000])
def test_the_last_key_is_kept_while_the_file_cannot_be_used(
    file: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    found = SecretFile("api_key", file)
    assert found.secret() == FIRST
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with caplog.at_level(logging.WARNING, "tritone"):
        assert [found.secret() for _ in range(3)] == [FIRST] * 3
    (record,) = caplog.records
    assert "the previous secret is sent" in record.getMessage()
    assert content is None or not content.strip() or content not in record.getMessage()
    file.write_text(SECOND)
    assert found.secret() == SECOND


def test_a_file_is_read_once_while_it_does_not_change(file: Path) -> None:
    reads: list[str] = []

    def read() -> str:
        reads.append(file.read_text())
        return reads[-1]

    watched = WatchedFiles([file], read)
    assert [watched.content() for _ in range(5)] == [f"{FIRST}\n"] * 5
    assert reads == [f"{FIRST}\n"]


def test_a_change_of_any_of_several_files_is_noticed(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("1")
    watched = WatchedFiles([file, other], lambda: (file.read_text(), other.read_text()))
    assert watched.content() == (f"{FIRST}\n", "1")
    other.write_text("22")
    assert watched.content() == (f"{FIRST}\n", "22")


def test_a_file_is_checked_twice_a_second_at_most(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_files, "CHECK_INTERVAL_S", 60.0)
    watched = WatchedFiles([file], file.read_text)
    before = watched.content()
    file.write_text(SECOND)
    assert watched.content() == before
    watched.expire()
    assert watched.content() == SECOND


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"api_key": "a", "api_key_file": "f"}, "api_key"),
        ({"api_key_file": "f", "headers": {"Authorization": "b"}}, "api_key_file"),
        ({"service_key": FIRST, "service_key_file": "f"}, "service_key"),
        ({"service_key_file": "f", "user_token": "a.b.c"}, "service_key_file"),
    ],
)
def test_a_file_and_another_credential_are_refused(options: dict[str, Any], argument: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        MusicClient(**options)
    assert (caught.value.argument, caught.value.reason) == (argument, "conflict")


@pytest.mark.parametrize("name", ["api_key_file", "service_key_file"])
@pytest.mark.parametrize("value", [b"key", 5, True])
def test_what_is_no_path_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        MusicClient(**{name: value})
    assert caught.value.argument == name


def test_a_path_with_a_null_byte_holds_no_secret() -> None:
    assert SecretFile("api_key", "a\0b").secret() is None


def test_a_client_with_key_files_is_pickled_without_the_keys(file: Path) -> None:
    with MusicClient("localhost:9", api_key_file=file, service_key_file=file) as music:
        data = pickle.dumps(music)
    assert FIRST.encode() not in data
    with pickle.loads(data) as other:  # noqa: S301
        assert other._credentials.headers() == {KEY_HEADER: FIRST}
