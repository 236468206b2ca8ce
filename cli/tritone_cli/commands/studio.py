"""`tritone studio`: run the models, the gateway and the studio page on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tritone import TritoneError
from tritone_cli import console, options
from tritone_cli.commands.gateway import settings_of
from tritone_cli.connections import model_address

_STOP_TIMEOUT_S: Final = 30.0


class StudioError(TritoneError):
    """Raised when the studio cannot start: the page is not built, or the server does not start."""


def studio(
    *,
    repository: options.Repository = Path("model_repository"),
    server: options.OptionalServer = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the page; 0 selects a free port.")] = 8080,
    recordings: options.TrackRecordings = None,
    example_user: options.ExampleUsers = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout when ready.")] = False,
) -> None:
    """Serve the studio page for analysing, composing and recommending music, on this machine until Ctrl-C."""
    from tritone_gateway.routers.studio import PAGE
    from tritone_gateway.server import serve

    if not (PAGE / "index.html").is_file():
        raise StudioError(f"{PAGE}: the page is not built: expected index.html; run `make studio` in the checkout")

    def report(url: str) -> None:
        if as_json:
            console.print_json({"studio": f"{url}/studio/", "url": url, "docs": f"{url}/docs"})
        else:
            console.say(f"studio: {url}/studio/ (Ctrl-C stops)")
        if open_browser:
            webbrowser.open(f"{url}/studio/")

    # After its shutdown, uvicorn raises the signal again, whose default action would leave the server running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with _running_server(repository) if server is None else nullcontext(model_address(server)) as address:
        settings = settings_of(
            server=address,
            port=port,
            recordings=recordings,
            example_users=tuple(example_user or ()),
            drain_s=0,
        )
        serve(settings, on_ready=report)


@contextmanager
def _running_server(repository: Path) -> Iterator[str]:
    """Serve a repository on free ports of this machine, and yield the gRPC address.

    Raises:
        StudioError: the server does not start.
    """
    command = [
        *(sys.executable, "-m", "tritone_cli", "serve", "--json", "--repository", str(repository)),
        *("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--supervisor-port", "0"),
    ]
    # In a new session, so that Ctrl-C reaches only this process, which stops the server after the gateway.
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, env=_environment()) as process:
        try:
            yield _server_address(process, repository)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}


def _server_address(process: subprocess.Popen[bytes], repository: Path) -> str:
    line = process.stdout.readline() if process.stdout is not None else b""
    try:
        facts: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise StudioError(
            f"{repository}: the server did not start: expected its addresses; see the messages above"
        ) from error
    address: str = facts["grpc"]
    return address
