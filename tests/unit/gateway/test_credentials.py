"""`tritone gateway` reads the credentials that it sends to the models' server, and shows them nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tritone_gateway.server
from tritone_cli.main import build_app
from tritone_gateway import GatewaySettings

SERVICE_KEY, API_KEY = "5e" * 32, "sesame-open"


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., GatewaySettings]:
    """Return a function that returns the settings of a command line."""
    for name in ("TRITONE_API_KEY", "TRITONE_SERVICE_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)

    def run(*options: str, **environment: str) -> GatewaySettings:
        served: list[GatewaySettings] = []
        monkeypatch.setattr(tritone_gateway.server, "serve", lambda settings, **_: served.append(settings))
        result = CliRunner().invoke(build_app(), ["gateway", *options], env=environment)
        assert result.exit_code == 0, result.output
        return served[0]

    return run


def test_no_credentials_by_default(settings_of: Callable[..., GatewaySettings]) -> None:
    settings = settings_of()
    assert (settings.service_key, settings.api_key) == (None, None)


def test_credentials_of_the_environment(settings_of: Callable[..., GatewaySettings], tmp_path: Path) -> None:
    file = tmp_path / "service.key"
    file.write_text(f"{SERVICE_KEY}\n")
    settings = settings_of(TRITONE_SERVICE_KEY_FILE=str(file), TRITONE_API_KEY=API_KEY)
    assert (settings.service_key, settings.api_key) == (SERVICE_KEY, API_KEY)
    for text in (repr(settings), str(settings.public())):
        assert SERVICE_KEY not in text
        assert API_KEY not in text


def test_options_come_before_the_environment(settings_of: Callable[..., GatewaySettings], tmp_path: Path) -> None:
    for name in ("service", "api"):
        (tmp_path / name).write_text(f"{name}-of-the-option")
    settings = settings_of(
        *("--service-key-file", str(tmp_path / "service"), "--api-key-file", str(tmp_path / "api")),
        TRITONE_SERVICE_KEY_FILE=str(tmp_path / "api"),
        TRITONE_API_KEY=API_KEY,
    )
    assert (settings.service_key, settings.api_key) == ("service-of-the-option", "api-of-the-option")


def test_a_service_key_of_the_environment_need_not_exist(
    settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    assert settings_of(TRITONE_SERVICE_KEY_FILE=str(tmp_path / "service.key")).service_key is None


@pytest.mark.parametrize("option", ["--service-key-file", "--api-key-file"])
@pytest.mark.parametrize("content", [None, ""])
def test_files_of_options_must_have_a_secret(option: str, content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    result = CliRunner().invoke(build_app(), ["gateway", option, str(file)])
    assert result.exit_code == 2


def test_an_empty_file_of_the_environment_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "service.key"
    file.write_text("")
    result = CliRunner().invoke(build_app(), ["gateway"], env={"TRITONE_SERVICE_KEY_FILE": str(file)})
    assert result.exit_code == 2
