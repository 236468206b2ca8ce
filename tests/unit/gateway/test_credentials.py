"""Credentials that `tritone gateway` sends to the models' server: sources, precedence, rotation, and no disclosure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.unit.gateway.conftest import LOCAL
from typer.testing import CliRunner

import tritone_gateway.server
from tritone.watched_files import CHECK_INTERVAL_S
from tritone_cli.main import build_app
from tritone_gateway import GatewaySettings, create_app

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
    assert (settings.service_key_file, settings.api_key, settings.api_key_file) == (None, None, None)


def test_credentials_of_the_environment(settings_of: Callable[..., GatewaySettings], tmp_path: Path) -> None:
    file = tmp_path / "service.key"
    file.write_text(f"{SERVICE_KEY}\n")
    settings = settings_of(TRITONE_SERVICE_KEY_FILE=str(file), TRITONE_API_KEY=API_KEY)
    assert (settings.service_key_file, settings.api_key, settings.api_key_file) == (file, API_KEY, None)
    assert SERVICE_KEY not in settings.to_environment()
    assert API_KEY not in repr(settings)


def test_options_take_precedence_over_the_environment(
    settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    service, api = tmp_path / "service", tmp_path / "api"
    for file in (service, api):
        file.write_text(f"{file.name}-of-the-option")
    settings = settings_of(
        *("--service-key-file", str(service), "--api-key-file", str(api)),
        TRITONE_SERVICE_KEY_FILE=str(api),
        TRITONE_API_KEY=API_KEY,
    )
    assert (settings.service_key_file, settings.api_key, settings.api_key_file) == (service, None, api)


def test_a_service_key_of_the_environment_need_not_exist_yet(
    settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    file = tmp_path / "service.key"
    assert settings_of(TRITONE_SERVICE_KEY_FILE=str(file)).service_key_file == file


@pytest.mark.parametrize("option", ["--service-key-file", "--api-key-file"])
@pytest.mark.parametrize("content", [None, ""])
def test_a_file_of_an_option_must_contain_a_secret(option: str, content: str | None, tmp_path: Path) -> None:
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


def test_replaced_keys_are_used_without_a_restart(tmp_path: Path) -> None:
    """Also a service key that appears only later."""
    seen: list[tuple[str | None, str | None]] = []

    class Models(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.headers.get("authorization"), self.headers.get("tritone-service-key")))
            self.send_response(503)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    service, api = tmp_path / "service.key", tmp_path / "api.key"
    api.write_text(API_KEY)
    with HTTPServer(("127.0.0.1", 0), Models) as models:
        threading.Thread(target=models.serve_forever, daemon=True).start()
        settings = GatewaySettings(
            server=f"http://127.0.0.1:{models.server_address[1]}",
            keys_file=tmp_path / "keys.json",
            service_key_file=service,
            api_key_file=api,
            retries=0,
            timeout_s=5,
        )
        with TestClient(create_app(settings), base_url=LOCAL) as gateway:
            assert gateway.post("/v1/recommend", json={"user_id": "42"}).status_code == 503
            service.write_text(SERVICE_KEY)
            api.write_text("sesame-changed")
            time.sleep(CHECK_INTERVAL_S + 0.05)
            assert gateway.post("/v1/recommend", json={"user_id": "42"}).status_code == 503
        models.shutdown()
    assert seen == [(f"Bearer {API_KEY}", None), ("Bearer sesame-changed", SERVICE_KEY)]
