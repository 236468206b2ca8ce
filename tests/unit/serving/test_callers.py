"""Tests of caller authorisation: request parameters, and key files that are missing, open to others or replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tritone import constants, credentials
from tritone_serving import repository
from tritone_serving.security.callers import (
    NOBODY,
    SERVICE_KEY_HEADER,
    SERVICE_KEY_VARIABLE,
    TRUST_CALLERS_VARIABLE,
    TRUSTED,
    USER_TOKEN_HEADER,
    Caller,
    CallerCheck,
    RequestParameters,
    ServiceKeyError,
    mint_token,
    read_parameters,
    read_service_key,
)

KEY = "k" * 43
OTHER = "o" * 43


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return written(tmp_path / "service.key", KEY)


def written(path: Path, content: str, mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def sent(**credentials: str) -> RequestParameters:
    return RequestParameters({f"tritone-{name.replace('_', '-')}": value for name, value in credentials.items()})


def test_the_headers_are_those_that_clients_send() -> None:
    assert SERVICE_KEY_HEADER == credentials.SERVICE_KEY_HEADER
    assert USER_TOKEN_HEADER == credentials.USER_TOKEN_HEADER
    assert repository.CANDIDATE_SUFFIX == constants.CANDIDATE_SUFFIX


# --- parameters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "credentials"),
    [
        ("", {}),
        ("{}", {}),
        ('{"tritone-service-key":"K"}', {"tritone-service-key": "K"}),
        ('{"Tritone-SERVICE-Key":" K "}', {"tritone-service-key": "K"}),
        ('{"tritone-service-key":"K","TRITONE-service-key":"K"}', {"tritone-service-key": "K"}),
        ('{"tritone-service-key":"K","tritone-service-key":"L"}', {}),
        ('{"tritone-service-key":"K","Tritone-service-key":"L","tritone-user-token":"T"}', {"tritone-user-token": "T"}),
        ('{"tritone-service-key":true,"tritone-user-token":7}', {}),
        ('{"tritone-service-key":"K","tritone-service-key":true}', {}),
        ('{"x-tritone-service-key":"K","tritone-service-keys":"K","other":"K"}', {}),
        ('["tritone-service-key","K"]', {}),
        ('{"tritone-service-key":["K"]}', {}),
        ("{", {}),
        ("null", {}),
        ("[" * 100_000, {}),
    ],
)
def test_credentials_are_read_from_parameters(text: str, credentials: dict[str, str]) -> None:
    assert read_parameters(text).credentials == credentials


@pytest.mark.parametrize(("value", "is_canary"), [("true", True), ('"true"', False), ("1", False), ("false", False)])
def test_a_canary_is_known_by_its_parameter(value: str, is_canary: bool) -> None:
    assert read_parameters(f'{{"tritone_canary":{value}}}').is_canary is is_canary


# --- the key file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o777])
def test_a_key_that_others_can_read_is_not_used(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(ServiceKeyError, match="chmod 600"):
        read_service_key(key_file)


@pytest.mark.parametrize("content", ["", "short", "k" * 2_000, "k" * 20 + " " + "k" * 20, "é" * 40, "k" * 31])
def test_an_invalid_key_is_not_used(tmp_path: Path, content: str) -> None:
    with pytest.raises(ServiceKeyError) as caught:
        read_service_key(written(tmp_path / "key", content))
    assert not content or content not in str(caught.value)


def test_white_space_around_a_key_does_not_matter(tmp_path: Path) -> None:
    assert read_service_key(written(tmp_path / "key", f" {KEY}\r\n")) == KEY.encode()


@pytest.mark.parametrize("kind", ["missing", "folder", "device"])
def test_a_key_file_must_be_a_file(tmp_path: Path, kind: str) -> None:
    path = {"missing": tmp_path / "no", "folder": tmp_path, "device": Path("/dev/null")}[kind]
    with pytest.raises(ServiceKeyError):
        read_service_key(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize(
    ("owner", "mode", "is_used"), [(0, 0o440, True), (0, 0o444, True), (0, 0o464, False), (1234, 0o600, False)]
)
def test_secrets_mounted_into_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, is_used: bool
) -> None:
    path = written(tmp_path / "key", KEY, mode)
    os.chown(path, owner, 10001)
    monkeypatch.setattr(os, "getuid", lambda: 10001)
    if is_used:
        assert read_service_key(path) == KEY.encode()
    else:
        with pytest.raises(ServiceKeyError):
            read_service_key(path)


# --- callers --------------------------------------------------------------------------------------------------


def test_access_by_credential(key_file: Path) -> None:
    check = CallerCheck(key_file)
    token = mint_token(KEY.encode(), "42")
    assert check.caller(RequestParameters({})) == NOBODY
    assert check.caller(sent(service_key=KEY)) == TRUSTED
    assert check.caller(sent(user_token=token)) == Caller(user="42")
    assert check.caller(sent(service_key=KEY, user_token=OTHER)) == TRUSTED
    assert check.caller(sent(service_key=OTHER, user_token=token)) == Caller(user="42")
    for wrong in (OTHER, KEY[:-1], KEY + "k", "", "\ud800", token, "é"):
        assert check.caller(sent(service_key=wrong)) == NOBODY
    for wrong in (KEY, "", "a.b.c", mint_token(OTHER.encode(), "42"), token[:-1]):
        assert check.caller(sent(user_token=wrong)) == NOBODY


def test_a_token_gives_access_to_its_own_user_only() -> None:
    assert [caller.may_use("42") for caller in (NOBODY, Caller(user="42"), Caller(user="4"), TRUSTED)] == [
        False,
        True,
        False,
        True,
    ]


def test_without_a_key_no_caller_is_authorised_and_one_warning_is_logged(tmp_path: Path) -> None:
    warnings: list[str] = []
    for path in (None, tmp_path / "missing", written(tmp_path / "open", KEY, 0o644), written(tmp_path / "short", "x")):
        check = CallerCheck(path, warn=warnings.append)
        for _ in range(3):
            assert check.caller(sent(service_key=KEY)) == NOBODY
            assert check.caller(sent(service_key="")) == NOBODY
    assert len(warnings) == 4
    assert not any(KEY in warning for warning in warnings)


def test_a_key_that_is_replaced_holds_at_once(key_file: Path) -> None:
    warnings: list[str] = []
    check = CallerCheck(key_file, warn=warnings.append)
    assert check.caller(sent(service_key=KEY)) == TRUSTED
    written(key_file.with_name("new"), OTHER).replace(key_file)
    assert check.caller(sent(service_key=KEY)) == NOBODY
    assert check.caller(sent(service_key=OTHER)) == TRUSTED
    key_file.chmod(0o644)
    assert check.caller(sent(service_key=OTHER)) == NOBODY
    key_file.chmod(0o600)
    assert check.caller(sent(service_key=OTHER)) == TRUSTED
    key_file.unlink()
    assert check.caller(sent(service_key=OTHER)) == NOBODY
    assert len(warnings) == 2


def test_trust_callers_must_be_set_explicitly(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVICE_KEY_VARIABLE, str(key_file))
    for value, caller in (("1", TRUSTED), ("0", NOBODY), ("", NOBODY), ("true", NOBODY)):
        monkeypatch.setenv(TRUST_CALLERS_VARIABLE, value)
        check = CallerCheck.from_environment(lambda text: None)
        assert check.caller(RequestParameters({})) == caller
        assert check.caller(sent(service_key=KEY)) == TRUSTED
