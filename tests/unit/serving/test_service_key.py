"""Tests of the service key's file and of what the server's processes get from it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tritone.credentials import default_key_file
from tritone_serving import OptionsError, ServerOptions
from tritone_serving.security.callers import SERVICE_KEY_VARIABLE, TRUST_CALLERS_VARIABLE, read_service_key
from tritone_serving.security.service_key import (
    make_service_key,
    privacy_notes,
    service_key_environment,
    service_key_flags,
)


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(SERVICE_KEY_VARIABLE, raising=False)


@pytest.fixture(params=[0o000, 0o077, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_is_made_once_and_for_its_owner_alone(umask: None) -> None:
    path = default_key_file()
    path.parents[1].mkdir(parents=True)
    for folder in (path.parents[2], path.parents[1]):
        folder.chmod(0o755)
    make_service_key(path)
    key = read_service_key(path)
    assert (len(key), mode(path), mode(path.parent)) == (43, 0o600, 0o700)
    assert path.read_bytes() == key  # a JWT library may be given the whole content
    make_service_key(path)
    assert read_service_key(path) == key
    assert [each.name for each in path.parent.iterdir()] == ["service.key"]


def test_servers_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    path = tmp_path / "service" / "service.key"
    found: list[bytes] = []

    def start() -> None:
        make_service_key(path)
        found.append(read_service_key(path))

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


def test_backends_get_the_path_but_not_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = service_key_environment(ServerOptions(repository=tmp_path))
    assert own == {SERVICE_KEY_VARIABLE: str(default_key_file()), TRUST_CALLERS_VARIABLE: "0"}
    monkeypatch.setenv(SERVICE_KEY_VARIABLE, str(tmp_path / "not there yet"))
    assert service_key_environment(ServerOptions(repository=tmp_path))[SERVICE_KEY_VARIABLE].endswith("not there yet")
    named = ServerOptions(repository=tmp_path, service_key_file=default_key_file())
    assert service_key_environment(named)[SERVICE_KEY_VARIABLE] == str(default_key_file())
    trusting = service_key_environment(ServerOptions(repository=tmp_path, trust_callers=True))
    assert trusting == {SERVICE_KEY_VARIABLE: "", TRUST_CALLERS_VARIABLE: "1"}


def test_an_inherited_variable_does_not_trust_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_CALLERS_VARIABLE, "1")
    assert service_key_environment(ServerOptions(repository=tmp_path))[TRUST_CALLERS_VARIABLE] == "0"


def test_a_named_key_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    is_open = tmp_path / "open.key"
    is_open.write_text("k" * 43)
    is_open.chmod(0o644)
    for path in (is_open, tmp_path / "missing.key"):
        with pytest.raises(OptionsError):
            service_key_environment(ServerOptions(repository=tmp_path, service_key_file=path))
    default_key_file().parent.mkdir(parents=True)
    default_key_file().write_text("k" * 43)
    default_key_file().chmod(0o644)
    with pytest.raises(OptionsError, match="chmod 600"):
        service_key_environment(ServerOptions(repository=tmp_path))


def test_error_for_a_key_that_cannot_be_written_suggests_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (tmp_path / "recommender" / "1").mkdir(parents=True)
    (tmp_path / "recommender" / "1" / "recommender.json").write_text("{}")
    with pytest.raises(OptionsError, match="--service-key-file"):
        service_key_environment(ServerOptions(repository=tmp_path))


def test_the_headers_are_forwarded_whole() -> None:
    assert service_key_flags() == [
        f"--{protocol}-header-forward-pattern=(?i)^(tritone-service-key|tritone-user-token)$"
        for protocol in ("http", "grpc")
    ]


def test_notes_describe_who_has_access_to_histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert privacy_notes(ServerOptions(repository=tmp_path)) == []
    (tmp_path / "recommender" / "1").mkdir(parents=True)
    (tmp_path / "recommender" / "1" / "recommender.json").write_text("{}")
    notes = [privacy_notes(ServerOptions(repository=tmp_path, trust_callers=trusts))[0] for trusts in (True, False)]
    assert "history" in notes[0]
    assert str(default_key_file()) in notes[1]
    monkeypatch.setenv(SERVICE_KEY_VARIABLE, str(tmp_path / "missing"))
    assert "unknown" in privacy_notes(ServerOptions(repository=tmp_path))[0]
