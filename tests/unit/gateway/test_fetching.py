"""Files that the gateway fetches from hosts that its operator allows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tests.support.tones import tone_file
from tests.unit.gateway.conftest import Start

RECORDING = tone_file(1.0)


class Media(BaseHTTPRequestHandler):
    """Serves a recording, and redirects to other places."""

    def do_GET(self) -> None:
        """Respond."""
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(RECORDING)

    def log_message(self, *_args: object) -> None:
        """Write nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """Serve recordings on a port."""
    with HTTPServer(("127.0.0.1", 0), Media) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_host_with_its_port_is_fetched_from(start: Start, port: int) -> None:
    gateway = start(url_hosts=(f"LOCALHOST:{port}",))
    response = gateway.post("/v1/classify", json={"file": {"url": f"http://localhost:{port}/a.ogg"}})

    assert response.status_code == 200


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/a.ogg",  # another port than that of the scheme
        "http://localhost:{port}/to/http://127.0.0.1:{port}/a.ogg",
        "http://localhost:{port}/to/file:///etc/passwd",
        "http://127.0.0.1.example/a.ogg",
        "http://[::1]/a.ogg",
        "http://2130706433/a.ogg",
    ],
)
def test_other_hosts_and_ports_are_refused(start: Start, port: int, url: str) -> None:
    gateway = start(url_hosts=("127.0.0.1", f"localhost:{port}"))
    response = gateway.post("/v1/classify", json={"file": {"url": url.format(port=port)}})

    assert response.status_code == 422
    assert response.json()["type"] == "urn:tritone:problem:host-not-allowed"
    assert response.json()["argument"] == "url"


@pytest.mark.parametrize("user", ["caller:sesame@", "sesame@", ":sesame@"])
def test_passwords_in_urls_are_neither_sent_nor_repeated(start: Start, port: int, user: str) -> None:
    gateway = start(url_hosts=(f"localhost:{port}",))
    response = gateway.post("/v1/classify", json={"file": {"url": f"http://{user}localhost:{port}/a.ogg"}})

    assert response.status_code == 422
    assert response.json()["type"] == "urn:tritone:problem:not-fetched"
    assert "sesame" not in response.text


def test_an_unreachable_host_shows_no_address(start: Start) -> None:
    gateway = start(url_hosts=("localhost:9",))
    response = gateway.post("/v1/classify", json={"file": {"url": "http://localhost:9/a.ogg"}})

    assert response.status_code == 422
    assert "127.0.0.1" not in response.text
    assert "::1" not in response.text
