"""Serving and its callers without a usable home folder: a service user without one, or one that cannot be written."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import NoReturn

import pytest
from tests.integration import python_models
from typer.testing import CliRunner

from tritone import MusicClient, TritoneError
from tritone_cli.main import build_app
from tritone_serving import OptionsError, ServerOptions, TritonServer
from tritone_serving.recommender.pseudonyms import find_key, key_folder
from tritone_serving.security.admin_token import make_state_folder, state_folder
from tritone_serving.security.service_key import SERVICE_KEY_VARIABLE, service_key_environment
from tritone_training.corpus import cache_folder
from tritone_training.pretrained.weights import PRETRAINED, fetch_wheel

CHECK = "0123456789abcdef"
PORTS = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}


@pytest.fixture(params=["none", "a file", "cannot be created"])
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """No usable home folder, in several ways."""
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "TRITONE_CACHE", "TRITONE_RECOMMENDER_KEY", SERVICE_KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    if request.param == "none":
        no_home(monkeypatch)
    elif request.param == "a file":
        (tmp_path / "home").write_text("")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
    else:
        monkeypatch.setenv("HOME", "/proc/no-such-folder")
    return str(request.param)


def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an entry in the password database, as containers run with any number."""

    def unknown(_: int) -> NoReturn:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def store_users(repository: Path) -> Path:
    (repository / "recommender" / "1").mkdir(parents=True)
    (repository / "recommender" / "1" / "recommender.json").write_text("{}")
    return repository


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"log_path"}, {"admin token", "--admin-token-file"}),
        ({"admin_token"}, {"log", "--log-file"}),
        (set(), {"log", "--log-file", "admin token", "--admin-token-file"}),
    ],
)
def test_the_error_names_the_folder_and_the_options(given: set[str], named: set[str]) -> None:
    with pytest.raises(OptionsError) as caught:
        make_state_folder(for_log="log_path" not in given, for_token="admin_token" not in given)
    text = str(caught.value)
    assert "XDG_STATE_HOME" in text
    assert all(each in text for each in named), text
    assert ("--log-file" in text) == ("--log-file" in named)
    assert ("--admin-token-file" in text) == ("--admin-token-file" in named)


@pytest.mark.triton
@pytest.mark.usefixtures("home")
def test_a_server_with_a_log_file_and_a_token_needs_no_home(tmp_path: Path) -> None:
    repository = python_models.make_repository(tmp_path / "models", adder=1)
    token = "sesame-open-123"  # noqa: S105  - of this test
    options = ServerOptions(repository=repository, **PORTS, log_path=tmp_path / "log", admin_token=token)
    with TritonServer.start(options) as server:
        assert server.models == {"adder": ["1"]}
    with pytest.raises(OptionsError, match=r"admin token.*XDG_STATE_HOME.*--admin-token-file"):
        TritonServer.start(ServerOptions(repository=repository, **PORTS, log_path=tmp_path / "log"))


@pytest.mark.usefixtures("home")
def test_the_service_key_is_needed_only_by_models_that_store_users(tmp_path: Path) -> None:
    options = ServerOptions(repository=tmp_path)
    assert service_key_environment(options)[SERVICE_KEY_VARIABLE] == ""
    store_users(tmp_path)
    with pytest.raises(OptionsError, match=r"XDG_STATE_HOME.*--service-key-file.*--trust-callers"):
        service_key_environment(options)


def test_without_a_home_no_path_is_guessed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "TRITONE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    no_home(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for look_up, match in ((state_folder, "XDG_STATE_HOME"), (cache_folder, "TRITONE_CACHE")):
        with pytest.raises(TritoneError, match=match):
            look_up()
    with pytest.raises(ValueError, match="TRITONE_RECOMMENDER_KEY"):
        key_folder()
    keys = tmp_path / "keys"
    keys.mkdir()
    assert find_key(str(keys), CHECK) == keys / f"{CHECK}.key"  # a named folder needs no home
    assert list(tmp_path.iterdir()) == [keys]


@pytest.mark.usefixtures("home")
def test_a_client_without_a_home_sends_no_key() -> None:
    with MusicClient("localhost:8001") as music:
        assert music._credentials.headers() == {}


@pytest.mark.usefixtures("home")
def test_pretrained_weights_say_which_variable_moves_them() -> None:
    with pytest.raises(TritoneError, match="TRITONE_CACHE"):
        fetch_wheel(PRETRAINED["musicnn"])


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["user-token", "somebody"], "--service-key-file"),
        (["publish", "genre_cnn", "--checkpoint", "{folder}"], "--admin-token-file"),
        (["forget", "somebody", "--repository", "{folder}"], ""),
    ],
)
def test_verbs_that_look_up_keys_and_tokens(arguments: list[str], remedy: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(build_app(), [each.format(folder=tmp_path) for each in arguments])
    assert result.exit_code != 0
    assert result.exception is None or isinstance(result.exception, TritoneError | SystemExit), result.exception
    assert remedy in f"{result.output} {result.exception}"
