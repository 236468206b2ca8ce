"""Tests of `tritone user-token` and of the credentials that `tritone recommend` sends."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.client.recommenders import FakeRecommender

import tritone
from tritone_serving.security.callers import verified_user
from tritone_serving.security.service_key import make_service_key

KEY = "k" * 43


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for variable in ("TRITONE_SERVICE_KEY_FILE", "TRITONE_USER_TOKEN", "TRITONE_SERVER", "TRITONE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "service.key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    return path


def test_a_token_is_printed_and_nothing_else(run_tritone: Any, key_file: Path) -> None:
    ended = run_tritone("user-token", "42", "--service-key-file", key_file)
    assert (ended.status, ended.stderr) == (0, "")
    assert verified_user(KEY.encode(), ended.stdout.strip()) == "42"


def test_as_json_with_its_expiry(run_tritone: Any, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONE_SERVICE_KEY_FILE", str(key_file))
    said = json.loads(run_tritone("user-token", "Björk", "--ttl-s", 60, "--json").stdout)
    assert verified_user(KEY.encode(), said["token"]) == "Björk"
    assert said["expires_utc"].endswith("+00:00")


def test_the_key_created_by_serve_is_used(run_tritone: Any) -> None:
    path = tritone.credentials.default_key_file()
    make_service_key(path)
    assert verified_user(path.read_bytes(), run_tritone("user-token", "42").stdout.strip()) == "42"


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_a_key_that_others_can_read_is_refused(run_tritone: Any, key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    ended = run_tritone("user-token", "42", "--service-key-file", key_file)
    assert ended.status == 1
    assert "chmod 600" in ended.stderr
    assert KEY not in ended.stderr


def test_a_missing_key_and_lifetimes_out_of_range(run_tritone: Any, key_file: Path) -> None:
    assert run_tritone("user-token", "42").status == 1
    for ttl_s in (0, 86_401):
        assert run_tritone("user-token", "42", "--service-key-file", key_file, "--ttl-s", ttl_s).status == 2


# --- recommend --------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(run_tritone: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the credentials that `tritone recommend --user 42` sends."""
    model = FakeRecommender()
    monkeypatch.setattr(tritone, "MusicClient", functools.partial(tritone.MusicClient, transport=model, retries=0))

    def run(*options: Any) -> dict[str, str]:
        ended = run_tritone("recommend", "--user", "42", *options)
        assert ended.status == 0, ended.stderr
        return dict(model.requests[-1].headers)

    return run


def test_credentials_in_files_come_before_the_environment_and_a_token_before_the_key(
    sent: Any, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("a.b.c\n")
    assert sent() == {}
    monkeypatch.setenv("TRITONE_SERVICE_KEY_FILE", str(key_file))
    assert sent() == {"tritone-service-key": KEY}
    monkeypatch.setenv("TRITONE_USER_TOKEN", "x.y.z")
    assert sent() == {"tritone-user-token": "x.y.z"}
    assert sent("--user-token-file", token_file) == {"tritone-user-token": "a.b.c"}
    assert sent("--service-key-file", key_file) == {"tritone-service-key": KEY}


def test_wrong_options(run_tritone: Any, key_file: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for words in (
        ("--service-key-file", missing),
        ("--user-token-file", missing),
        ("--service-key-file", key_file, "--user-token-file", key_file),
    ):
        assert run_tritone("recommend", *words).status == 2
